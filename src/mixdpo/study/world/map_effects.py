"""What a map's runs say: paired effects of arms with intervals, the size that would be seen, and where effects cross.

Arms are compared at the same seed, whose pairs, base and test prompts they share, so that what these do cancels.
Legend: S seeds, C cells in the order of their quality, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import isotonic_regression

from mixdpo.common.statistics import Interval, mean_interval
from mixdpo.evaluation.statistics.paired import holm
from mixdpo.study.effects import standard_errors_seen, two_sided

LEVEL: Final = 0.95
RESAMPLES: Final = 2000


@dataclass(frozen=True, kw_only=True)
class PairedEffect(Interval):
    """A mean difference over seeds with Student's interval, in the unit of the measure.

    Attributes:
        p_value: two-sided, of no difference.
        detectable: the true effect that so many seeds of this spread find with probability 0.8.
    """

    p_value: float
    detectable: float


def paired_effect(differences: np.ndarray) -> PairedEffect:
    """Estimate the mean of differences, float64 of shape (S,), two at least."""
    interval = mean_interval(differences, LEVEL)
    freedom = len(differences) - 1
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return PairedEffect(
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        level=LEVEL,
        p_value=two_sided(interval.estimate, error, freedom),
        detectable=error * standard_errors_seen(freedom, 1 - LEVEL),
    )


def by_base(values: np.ndarray, seeds: Sequence[int], bases: int) -> list[float | None]:
    """Return the mean of values (S,) over the seeds of each base, None for one without."""
    of_seed = np.asarray(seeds) % bases
    return [float(values[of_seed == base].mean()) if (of_seed == base).any() else None for base in range(bases)]


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Where an effect turns from harm to help as quality grows; None where it does not within what was measured.

    Attributes:
        estimate: of the quality, less what `crossing` was told to take off.
        low, high: ends of its interval; None beyond the lowest or highest quality.
        below, above: shares of resamples in which the effect helps from the lowest quality on, or harms up to the
            highest.
    """

    estimate: float | None
    low: float | None
    high: float | None
    below: float
    above: float


def break_even(quality_SC: np.ndarray, effect_SC: np.ndarray, seed: int = 0) -> BreakEven:
    """Find the quality at which an effect is zero, by straight lines between cells, with a bootstrap over seeds.

    The same seeds are drawn in all cells, because cells of a seed share most of their pairs. Means that fall where
    quality grows are pooled first (isotonic regression), so that there is one crossing.

    Args:
        quality_SC: of each seed and cell, or quality less a level that was reached.
        effect_SC: of the same seeds and cells.
        seed: of the resamples.
    """
    drawn = np.random.default_rng(seed).integers(len(effect_SC), size=(RESAMPLES, len(effect_SC)))
    estimate = _zero(quality_SC.mean(axis=0), effect_SC.mean(axis=0))
    found = np.array(
        [_zero(quality_SC[rows].mean(axis=0), effect_SC[rows].mean(axis=0)) for rows in drawn], dtype=np.float64
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], method="nearest")
    return BreakEven(
        estimate=_or_none(estimate),
        low=_or_none(float(low)),
        high=_or_none(float(high)),
        below=float(np.isneginf(found).mean()),
        above=float(np.isposinf(found).mean()),
    )


def _zero(quality_C: np.ndarray, effect_C: np.ndarray) -> float:
    order = np.argsort(quality_C, kind="stable")
    quality, effect = quality_C[order], isotonic_regression(effect_C[order]).x
    if effect[0] >= 0:
        return -np.inf
    if effect[-1] <= 0:
        return np.inf
    after = int(np.argmax(effect > 0))
    before = after - 1
    share = -effect[before] / (effect[after] - effect[before])
    return float(quality[before] + share * (quality[after] - quality[before]))


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def holm_within(effects: Mapping[str, PairedEffect]) -> dict[str, float]:
    """Return p-values that are corrected by Holm's method for the effects compared together."""
    return dict(zip(effects, holm([one.p_value for one in effects.values()]), strict=True))
