"""Figures with their intervals and sample sizes, as plain values for JSON. The statistics are scipy's."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, Context
from typing import Final

import numpy as np
import scipy

from mixdpo.common.statistics import mean_interval, proportion

Estimate = dict[str, float | int | None]
"""`value`, `low`, `high` (95 % interval) and `n`; the first three are None where there is none."""

CONFIDENCE: Final = 0.95
_ROUNDING: Final = 1e-9
"""Standard deviation, as a share of the values, under which they differ by rounding alone."""


def share(part: int, n: int) -> Estimate:
    """Return the share `part / n` with Wilson's interval."""
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    interval = proportion(int(part), int(n), CONFIDENCE)
    return {"value": interval.estimate, "low": interval.low, "high": interval.high, "n": int(n)}


def mean(values: np.ndarray, scale: tuple[float, float] | None = None) -> Estimate:
    """Return the mean of float64 values, shape (N,), with Student's interval; `scale`: what no value is outside of."""
    if len(values) < 2:
        return {"value": float(values[0]) if len(values) else None, "low": None, "high": None, "n": len(values)}
    interval = mean_interval(values, CONFIDENCE, scale)
    low, high = (interval.low, interval.high) if scale is None else np.clip([interval.low, interval.high], *scale)
    return {"value": interval.estimate, "low": float(low), "high": float(high), "n": len(values)}


def standardised_mean(differences: np.ndarray) -> Estimate:
    """Return Cohen's d of paired differences (mean over standard deviation) with its large-sample interval.

    The variance of d is 1/n + d^2 / 2n (Hedges and Olkin, 1985).
    """
    n = len(differences)
    deviation = float(differences.std(ddof=1)) if n > 1 else 0.0
    if deviation <= _ROUNDING * float(np.abs(differences).max(initial=0.0)):
        return {"value": None, "low": None, "high": None, "n": n}
    d = float(differences.mean()) / deviation
    half = float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2)) * float(np.sqrt(1 / n + d**2 / (2 * n)))
    return {"value": d, "low": d - half, "high": d + half, "n": n}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Return Spearman's correlation of the finite pairs of values, with the interval of Bonett and Wright (2000)."""
    both = np.isfinite(first) & np.isfinite(second)
    n = int(both.sum())
    if n < 4 or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return {"value": None, "low": None, "high": None, "n": n}
    rho = float(scipy.stats.spearmanr(first[both], second[both]).statistic)
    if abs(rho) > 1 - 1e-12:
        return {"value": rho, "low": rho, "high": rho, "n": n}
    half = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return {"value": rho, "low": float(low), "high": float(high), "n": n}


def ends_of(margin: np.ndarray) -> dict[str, float]:
    """Return the smallest and the largest margin of a bucket, as `low` and `high`."""
    return {"low": float(margin.min()), "high": float(margin.max())}


def binned(values: np.ndarray, bins: int = 40) -> dict[str, list[float]]:
    """Return `edges` (bins + 1) and `counts` (bins) of finite values; few distinct values get a bin each."""
    values = values[np.isfinite(values)]
    distinct = np.unique(values)
    if len(distinct) == 0:
        return {"edges": [], "counts": []}
    if len(distinct) > bins // 2:
        edges = np.linspace(distinct[0], distinct[-1], bins + 1)
    else:
        between = (distinct[1:] + distinct[:-1]) / 2
        first, last = (between[0] - distinct[0], distinct[-1] - between[-1]) if len(between) else (0.5, 0.5)
        edges = np.concatenate([[distinct[0] - first], between, [distinct[-1] + last]])
    return {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}


def length_histograms(lengths: Mapping[str, np.ndarray], bins: int = 50) -> dict[str, dict[str, list[float]]]:
    """Return histograms of whole numbers on common edges; the last bin holds all that is longer than 99 % are."""
    both = np.concatenate(list(lengths.values()))
    low, high = int(both.min()), int(np.percentile(both, 99))
    width = max(1, -(-(high - low) // bins))
    edges = low - 0.5 + width * np.arange(max(1, -(-(high + 1 - low) // width)) + 1)
    clipped = {name: np.minimum(values, edges[-1] - 0.5) for name, values in lengths.items()}
    return {
        name: {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}
        for name, values in clipped.items()
    }


def short_between(low: float, high: float) -> float:
    """Return the number of the fewest significant digits, two or more, above `low` and at most `high`: one to copy.

    Pairs strictly under it are those strictly under `high`, where no margin is between both.
    """
    for digits in range(2, 17):
        short = float(Context(prec=digits, rounding=ROUND_FLOOR).create_decimal_from_float(high))
        if low < short <= high:
            return short
    return high


def summary(values: np.ndarray) -> dict[str, float]:
    """Return mean, p5, p50, p95, min and max of values, shape (N,), N > 0."""
    p5, p50, p95 = np.percentile(values, [5, 50, 95]).tolist()
    extremes = {"min": float(values.min()), "max": float(values.max())}
    return {"mean": float(values.mean()), "p5": p5, "p50": p50, "p95": p95, **extremes}
