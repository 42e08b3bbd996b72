"""Intervals for means, and for differences that were measured on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_DRAWS_AT_ONCE = 2**22
"""Resampled values held in memory together (32 MB); the rest is done in turns."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with a confidence interval, in the unit of what was measured."""

    estimate: float
    low: float
    high: float
    level: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} ({self.level:.0%} interval {self.low:+.2f} to {self.high:+.2f})"


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Estimate a mean with Student's t interval; a hundred items or more need not be normally distributed.

    A single value gives an interval without bounds.

    Args:
        values: one finite value per item.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("a mean needs a list of finite values")
    estimate = float(array.mean())
    if len(array) == 1:
        return Interval(estimate=estimate, low=-np.inf, high=np.inf, level=level)
    reach = stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(estimate=estimate, low=float(estimate - reach), high=float(estimate + reach), level=level)


def paired_bootstrap(
    before: Sequence[float] | np.ndarray,
    after: Sequence[float] | np.ndarray,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Estimate the mean of `after - before` over items, with a BCa bootstrap interval that resamples items.

    Differences that are all equal give an interval of no width: no resample could show anything else.

    Args:
        before: one value per item.
        after: one value per item, same items in the same order.
        rng: source of the resamples.
        level: confidence level, between 0 and 1.
        resamples: number of resamples.

    Raises:
        ValueError: fewer than two items, lists of different lengths, or a value that is not finite.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"paired values of shapes {first.shape} and {second.shape}; two lists of one length are needed"
        )
    if len(first) < 2:
        raise ValueError(f"{len(first)} paired value(s); an interval needs at least 2")
    difference = second - first
    if not np.isfinite(difference).all():
        raise ValueError("a paired value is not finite")
    estimate = float(difference.mean())
    if np.ptp(difference) == 0:
        return Interval(estimate=estimate, low=estimate, high=estimate, level=level)
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _DRAWS_AT_ONCE // len(difference)),
        confidence_level=level,
        method="BCa",
        random_state=rng,
    ).confidence_interval
    return Interval(estimate=estimate, low=float(interval.low), high=float(interval.high), level=level)


def clustered_bootstrap(
    totals: np.ndarray,
    counts: np.ndarray,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """Estimate the mean over all rows of clusters, with a percentile bootstrap interval that resamples clusters.

    Rows that belong together, such as the games of one prompt, are drawn together: drawn as if they were independent
    they would give an interval that is too narrow.

    Args:
        totals: sum of the rows' values in each cluster, (clusters,).
        counts: rows in each cluster, (clusters,).
        rng: source of the resamples.
        level: confidence level, between 0 and 1.
        resamples: number of resamples.

    Raises:
        ValueError: lists of different lengths, or no rows.
    """
    totals, counts = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if totals.ndim != 1 or totals.shape != counts.shape or not counts.sum() > 0:
        raise ValueError(f"totals of shape {totals.shape} and counts of shape {counts.shape} of clusters with rows")
    means = []
    for begin in range(0, resamples, step := max(1, _DRAWS_AT_ONCE // len(totals))):
        drawn = rng.integers(len(totals), size=(min(step, resamples - begin), len(totals)))
        rows = counts[drawn].sum(axis=1)
        means.append(totals[drawn].sum(axis=1)[rows > 0] / rows[rows > 0])
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=float(totals.sum() / counts.sum()), low=float(low), high=float(high), level=level)
