"""Bounds of shares, and intervals of means and of differences that were measured on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # whose submodules are imported when they are first used: stats takes longer than most commands

_DRAWS_AT_ONCE = 2**22
"""Resampled values held in memory together (32 MB); the rest is done in turns."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with a confidence interval, in the unit of what was measured."""

    estimate: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} ({100 * self.level:g} % interval {self.low:+.2f} to {self.high:+.2f})"


def both_ends(interval: Interval, times: float = 1.0) -> list[float] | None:
    """Return both ends of an interval, in the unit of `times` of its own; None for an interval without bounds."""
    if not np.isfinite([interval.low, interval.high]).all():
        return None
    return [times * interval.low, times * interval.high]


def share_bounds(
    successes: float | np.ndarray, trials: float | np.ndarray, tail: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact (Clopper-Pearson) bounds of a share, each missed with probability `tail` at most.

    Both counts may be fractions, as an effective number of trials is.
    """
    successes, failures = np.asarray(successes, dtype=np.float64), trials - np.asarray(successes, dtype=np.float64)
    low = scipy.stats.beta.ppf(tail, np.maximum(successes, 1e-300), failures + 1)
    high = scipy.stats.beta.ppf(1 - tail, successes + 1, np.maximum(failures, 1e-300))
    return np.where(successes > 0, low, 0.0), np.where(failures > 0, high, 1.0)


def monotone_band(successes_B: np.ndarray, trials_B: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Bound the shares of consecutive bins simultaneously, given that they do not fall from one bin to the next.

    The mean over a run of bins is at most the share of its last bin and at least that of its first; so every
    run bounds its last bin and those after it from below, its first and those before it from above (the idea of
    Duembgen 2003). `1 - level` is divided evenly among the runs and their two sides (Bonferroni).

    Returns:
        Lower and upper bounds, float64, shape (B,) each. A lower one above its upper one shows that shares do fall.
    """
    first, last = np.triu_indices(len(trials_B))
    successes, trials = np.append(0.0, np.cumsum(successes_B)), np.append(0.0, np.cumsum(trials_B))
    tail = (1 - level) / (2 * len(first))
    low, high = share_bounds(successes[last + 1] - successes[first], trials[last + 1] - trials[first], tail)
    low_B, high_B = np.zeros(len(trials_B)), np.ones(len(trials_B))
    np.maximum.at(low_B, last, low)
    np.minimum.at(high_B, first, high)
    return np.maximum.accumulate(low_B), np.minimum.accumulate(high_B[::-1])[::-1]


def proportion(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Estimate a share with Wilson's interval.

    Raises:
        ValueError: there are no trials.
    """
    found = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(estimate=successes / trials, low=float(found.low), high=float(found.high), level=level)


def sign_test(better: int, worse: int) -> float:
    """Return the exact two-sided p-value of `better` against `worse`; ties are left out. It is McNemar's exact test
    where scores are right or wrong."""
    return float(scipy.stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def interval_of_equal(value: float, items: int, scale: tuple[float, float], level: float = 0.95) -> Interval:
    """Return the interval of a mean of which every item shows the same value.

    Neither the spread of the items nor a resample of them says how far the mean may be off. But Wilson's interval
    bounds the share of items that would show another value, none of which was seen; and those lie somewhere on the
    scale. For a share (all right, or all wrong) this is Wilson's interval itself. A single item gives an interval
    without bounds.

    Args:
        value: what all items show.
        items: number of independent items.
        scale: smallest and largest value there is.
        level: confidence level, between 0 and 1.
    """
    if items == 1:
        return Interval(estimate=value, low=-np.inf, high=np.inf, level=level)
    others = proportion(0, items, level).high
    low, high = value - others * max(0.0, value - scale[0]), value + others * max(0.0, scale[1] - value)
    return Interval(estimate=value, low=low, high=high, level=level)


def score_share(scores: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Estimate a mean of scores from 0 to 1, as of wins (1), ties (0.5) and losses (0), with Wilson's interval.

    Without ties it is Wilson's interval of the share of wins. Ties make scores vary less than wins and losses alone
    would; the number of trials is then the larger one at which a share would vary as the scores do. Scores that are
    all equal have the interval of `interval_of_equal`, a single score one without bounds.

    Args:
        scores: one finite score per item, 0 to 1.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: no scores.
    """
    array = np.asarray(scores, dtype=np.float64)
    if not len(array):
        raise ValueError("a share needs scores")
    share = float(array.mean())
    if np.ptp(array) == 0:
        return interval_of_equal(share, len(array), (0.0, 1.0), level)
    trials = len(array) * share * (1 - share) / float(array.var())
    z_squared = float(scipy.stats.norm.ppf((1 + level) / 2)) ** 2
    middle = share + z_squared / (2 * trials)
    reach = np.sqrt(z_squared * (share * (1 - share) / trials + z_squared / (4 * trials**2)))
    low, high = ((middle + side * reach) / (1 + z_squared / trials) for side in (-1, 1))
    return Interval(estimate=share, low=float(low), high=float(high), level=level)


def mean_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, scale: tuple[float, float] | None = None
) -> Interval:
    """Estimate a mean with Student's t interval; a hundred items or more need not be normally distributed.

    A single value gives an interval without bounds.

    Args:
        values: one finite value per item.
        level: confidence level, between 0 and 1.
        scale: smallest and largest value there is, for values that are all equal; see `interval_of_equal`. Without it
            they give an interval of no width.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("a mean needs a list of finite values")
    estimate = float(array.mean())
    if scale is not None and np.ptp(array) == 0:
        return interval_of_equal(float(array[0]), len(array), scale, level)
    if len(array) == 1:
        return Interval(estimate=estimate, low=-np.inf, high=np.inf, level=level)
    reach = scipy.stats.t.ppf((1 + level) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
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
    interval = scipy.stats.bootstrap(
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


def clustered_mean(
    values: np.ndarray,
    clusters: Sequence[str] | np.ndarray,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2_000,
    scale: tuple[float, float] | None = None,
) -> Interval:
    """Estimate the mean of `values`, (N,), as `clustered_bootstrap` does; `clusters` names the cluster of each.

    On a `scale` (smallest and largest value there is), a single cluster has an interval without bounds, and clusters
    of equal means have that of `interval_of_equal`; without one they give an interval of no width.
    """
    index = np.unique(clusters, return_inverse=True)[1]
    totals, counts = np.bincount(index, weights=values), np.bincount(index)
    if scale is not None and np.ptp(totals / counts) == 0:
        return interval_of_equal(float(np.mean(values)), len(counts), scale, level)
    return clustered_bootstrap(totals, counts, rng=rng, level=level, resamples=resamples)


def cluster_means(values: np.ndarray, clusters: Sequence[str] | np.ndarray) -> dict[str, float]:
    """Return the mean of `values`, (N,), in each cluster, in the order of their names."""
    names, index = np.unique(clusters, return_inverse=True)
    means = np.bincount(index, weights=values) / np.bincount(index)
    return dict(zip(names.tolist(), means.tolist(), strict=True))


def mean_of_means(
    strata: Sequence[np.ndarray], weights: Sequence[float], level: float = 0.95
) -> tuple[Interval, float]:
    """Estimate a weighted mean of the means of independent strata.

    The interval is Student's with the degrees of freedom of Welch and Satterthwaite; of one stratum it is that of
    `mean_interval`. With a stratum of a single value there is no standard error, and no bounds.

    Args:
        strata: finite values of each stratum.
        weights: of each stratum's mean.
        level: confidence level, between 0 and 1.

    Returns:
        The estimate with its interval, and its standard error (NaN where there is none).

    Raises:
        ValueError: no strata, or an empty one.
    """
    if not strata or not all(len(values) for values in strata):
        raise ValueError("a mean of means needs strata with values")
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    estimate = float(share @ np.array([values.mean() for values in strata]))
    counts = np.array([len(values) for values in strata])
    if (counts < 2).any():
        return Interval(estimate=estimate, low=-np.inf, high=np.inf, level=level), float("nan")
    variance = share**2 * np.array([values.var(ddof=1) for values in strata]) / counts
    error = float(np.sqrt(variance.sum()))
    freedom = variance.sum() ** 2 / (variance**2 / (counts - 1)).sum() if error else counts.sum()
    reach = float(scipy.stats.t.ppf((1 + level) / 2, freedom)) * error
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach, level=level), error


def by_margin(margin: np.ndarray, buckets: int) -> list[np.ndarray]:
    """Return the rows of parts of about equal size by margin, hardest first; int64 each.

    Equal margins stay together, so data with few distinct margins has fewer buckets; with a single one it has none.
    Pairs without a finite margin are in no bucket.

    Args:
        margin: float64, shape (N,), NaN where missing.
        buckets: at most.
    """
    known = np.flatnonzero(np.isfinite(margin))
    distinct, which, counts = np.unique(margin[known], return_inverse=True, return_counts=True)
    if len(distinct) < 2:
        return []
    last = np.cumsum(counts)
    middle = (last - counts + last - 1) / 2 / (len(known) - 1)  # place of each margin, from 0 to 1
    bucket = np.minimum((middle * buckets).astype(int), buckets - 1)[which]
    return [known[bucket == number] for number in np.unique(bucket)]
