"""How hard a pair is: every metric adds a column `margin/<metric>` in which larger means easier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from datasets import Dataset

from mixdpo.difficulty.rating import rating_margin
from mixdpo.errors import InputError

__all__ = ["METRICS", "score"]

METRICS: Final[dict[str, Callable[[Dataset], list[float]]]] = {"rating": rating_margin}


def score(dataset: Dataset, metric: str = "rating") -> Dataset:
    """Return `dataset` with the column `margin/<metric>` (float64, larger = easier), replaced if it exists.

    Args:
        dataset: pairs from `load_pairs`.
        metric: a key of `METRICS`. `rating` is the score of the chosen minus that of the rejected answer.

    Raises:
        InputError: unknown metric, or the data lacks what the metric needs.
    """
    if metric not in METRICS:
        raise InputError(f"no difficulty metric is named {metric!r}; there are {', '.join(METRICS)}")
    margins = METRICS[metric](dataset)
    column = f"margin/{metric}"
    if column in dataset.column_names:
        dataset = dataset.remove_columns(column)
    return dataset.add_column(column, margins)
