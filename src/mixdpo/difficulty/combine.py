"""The combined metric: a weighted mean of the ranks that other metrics give."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.common.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

_OWN: Final = "combine"


@dataclass(frozen=True, kw_only=True)
class CombineSettings:
    """Settings of the metric `combine`."""

    weights: dict[str, float] | None = field(
        default=None,
        metadata={"help": "weight of each metric's rank, such as {rating: 2, nll_gap: 1}; null: all margin/* alike"},
    )


def combine_margin(dataset: Dataset, settings: CombineSettings) -> np.ndarray:
    """Return the weighted mean of the metrics' ranks, float64 in [0, 1] (0 = hardest), shape (N,).

    Ranks, because margins of different metrics have different units and tails; equal margins share their mean rank.

    Raises:
        InputError: a metric is missing or has a margin that is not finite, no metric is left, or a weight is not
            positive.
    """
    from scipy.stats import rankdata

    from mixdpo.data.arrays import float_column, place_of

    present = [name.removeprefix("margin/") for name in dataset.column_names if name.startswith("margin/")]
    weights = settings.weights
    if weights is None:
        weights = {name: 1.0 for name in present if name != _OWN}
    if not weights:
        raise InputError(
            "the combine metric needs other margins, and the data has none",
            hint="add some with `mixdpo score`, such as rating and nll_gap",
        )
    total = np.zeros(len(dataset))
    for name, weight in weights.items():
        if not (np.isfinite(weight) and weight > 0):
            raise InputError(f"the weight of {name!r} is {weight!r}; weights are positive numbers")
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]}?" if near else f"add it with `mixdpo score --metric {name}`"
            raise InputError("there is no such column to combine", column=f"margin/{name}", hint=hint)
        margin = float_column(dataset, f"margin/{name}")
        bad = np.flatnonzero(~np.isfinite(margin))
        if len(bad):
            place = place_of(dataset, int(bad[0]))
            raise InputError("the margin is not a finite number", **place, column=f"margin/{name}")
        total += weight * (rankdata(margin) - 1)
    return total / (sum(weights.values()) * max(1, len(dataset) - 1))
