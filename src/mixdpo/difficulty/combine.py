"""Metrics made of other metrics' margins: their mean rank, how near the middle all are, and what they say together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.tables import percent_text

if TYPE_CHECKING:
    from datasets import Dataset

_OWN: Final = "combine"
_EXTREMES: Final = 0.01
"""Share of the pairs whose margins count as certain where `fused` is given no bounds."""


@dataclass(frozen=True, kw_only=True)
class CombineSettings:
    """Settings of the metric `combine`."""

    weights: dict[str, float] | None = field(
        default=None,
        metadata={"help": "weight of each metric's rank, such as {rating: 2, nll_gap: 1}; null: all margin/* alike"},
    )


@dataclass(frozen=True, kw_only=True)
class MiddleSettings:
    """Settings of the metric `middle`."""

    metrics: list[str] = field(
        default_factory=lambda: ["loss_diff", "implicit_reward"],
        metadata={"help": "metrics of which a pair is to be in the middle"},
    )


@dataclass(frozen=True, kw_only=True)
class FusedSettings:
    """Settings of the metric `fused`."""

    metrics: list[str] = field(
        default_factory=lambda: ["rating", "implicit_reward"],
        metadata={"help": "metrics whose sign says which answer is better"},
    )
    bounds: dict[str, list[float]] | None = field(
        default=None,
        metadata={
            "help": "margins [low, high] that count as certainly wrong and right, such as {rating: [-2, 2]}; of a "
            "metric without: minus and plus the size that 1 % of its margins exceed"
        },
    )


def made_of(settings: Any) -> Sequence[str]:
    """Return the metrics that a metric's settings name to be made of; none for one that reads the pairs alone."""
    match settings:
        case CombineSettings(weights=weights):
            return list(weights or {})
        case MiddleSettings(metrics=metrics) | FusedSettings(metrics=metrics):
            return metrics
        case _:
            return []


def combine_margin(dataset: Dataset, settings: CombineSettings) -> np.ndarray:
    """Return the weighted mean of the metrics' ranks, float64 in [0, 1] (0 = hardest), shape (N,).

    Ranks, because margins of different metrics have different units and tails; equal margins share their mean rank.

    Raises:
        InputError: a metric is missing or has a margin that is not finite, no metric is left, or a weight is not
            positive.
    """
    weights = settings.weights
    if weights is None:
        weights = {name: 1.0 for name in _present(dataset) if name != _OWN}
    if not weights:
        raise InputError(
            "the combine metric needs other margins, and the data has none",
            hint="add some with `mixdpo score`, such as rating and nll_gap",
        )
    total = np.zeros(len(dataset))
    for name, weight in weights.items():
        if not (np.isfinite(weight) and weight > 0):
            raise InputError(f"the weight of {name!r} is {weight!r}; weights are positive numbers")
        total += weight * _ranks(_margins(dataset, [name])[name])
    return total / sum(weights.values())


def middle_margin(dataset: Dataset, settings: MiddleSettings) -> np.ndarray:
    """Return 1 - 2 max_j |rank_j - 1/2| over the metrics j; float64 in [0, 1] (0 = an extreme of one), shape (N,).

    Pairs with a margin of 1 - w or more are those in the middle w of all the ranks of every metric, the intersection
    of bands that LossDiff-IRM keeps (Zhang et al. 2025, arXiv 2510.13212).

    Raises:
        InputError: a metric is missing or has a margin that is not finite, or none is named.
    """
    ranks = [_ranks(margin) for margin in _margins(dataset, settings.metrics).values()]
    return 1 - 2 * np.abs(np.array(ranks) - 0.5).max(axis=0)


def fused_margin(dataset: Dataset, settings: FusedSettings) -> np.ndarray:
    """Return the probability that the label is right by all metrics together; float64 in [0, 1], shape (N,).

    With p_j = (clip(m_j, L_j, U_j) - L_j) / (U_j - L_j) of metric j's margins and bounds, and the metrics independent:

        P = prod_j p_j / (prod_j p_j + prod_j (1 - p_j))

    Where one metric is certain of either answer, P is 1/2. Source: Deng et al. 2025 (arXiv 2502.14560, "BeeS").

    Raises:
        InputError: a metric is missing or has a margin that is not finite, none is named, or bounds are not in order.
    """
    margins, bounds = _margins(dataset, settings.metrics), settings.bounds or {}
    if unknown := set(bounds) - set(margins):
        raise InputError(f"bounds of {sorted(unknown)[0]!r}, which is not one of the metrics {', '.join(margins)}")
    right, wrong = np.ones(len(dataset)), np.ones(len(dataset))
    for name, margin in margins.items():
        low, high = _bounds(name, margin, bounds.get(name))
        probability = (np.clip(margin, low, high) - low) / (high - low)
        right, wrong = right * probability, wrong * (1 - probability)
    return np.divide(right, right + wrong, out=np.full(len(dataset), 0.5), where=right + wrong > 0)


def _bounds(name: str, margin: np.ndarray, given: Sequence[float] | None) -> tuple[float, float]:
    if given is None:
        size = float(np.quantile(np.abs(margin), 1 - _EXTREMES))
        if size == 0:
            raise InputError(
                f"all but {percent_text(_EXTREMES, 0)} of the margins are 0",
                column=f"margin/{name}",
                hint="leave the metric out",
            )
        return -size, size
    if len(given) != 2 or not (np.isfinite(given).all() and given[0] < given[1]):
        raise InputError(f"the bounds of {name!r} are {list(given)}; they are written [low, high] with low < high")
    return given[0], given[1]


def _present(dataset: Dataset) -> list[str]:
    return [name.removeprefix("margin/") for name in dataset.column_names if name.startswith("margin/")]


def _margins(dataset: Dataset, names: Iterable[str]) -> Mapping[str, np.ndarray]:
    """Return the margins of metrics, float64 of shape (N,); `InputError` for one missing or not finite, or none."""
    from mixdpo.data.arrays import float_column, place_of

    present, found = _present(dataset), {}
    for name in names:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]}?" if near else f"add it with `mixdpo score --metric {name}`"
            raise InputError("there is no such column to combine", column=f"margin/{name}", hint=hint)
        margin = float_column(dataset, f"margin/{name}")
        bad = np.flatnonzero(~np.isfinite(margin))
        if len(bad):
            place = place_of(dataset, int(bad[0]))
            raise InputError("the margin is not a finite number", **place, column=f"margin/{name}")
        found[name] = margin
    if not found:
        raise InputError("no metric is named to combine")
    return found


def _ranks(margin: np.ndarray) -> np.ndarray:
    """Return the ranks of margins, float64 in [0, 1] (0 = hardest); equal margins share their mean rank."""
    from scipy.stats import rankdata

    return (rankdata(margin) - 1) / max(1, len(margin) - 1)
