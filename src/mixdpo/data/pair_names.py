"""How a message names pairs of a loaded data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from datasets import Dataset

from mixdpo.data.arrays import place_of

SHOWN_PAIRS: Final = 5
"""How many pairs a message names."""


def pair_names(dataset: Dataset, rows: Sequence[int]) -> str:
    """Return what a message calls pairs: id, row of the file and, where there are several, the file of the first few.

    Args:
        dataset: pairs from `load_pairs`.
        rows: index in `dataset` of each pair, at least one.
    """
    shown = [pair_name(dataset, int(row)) for row in rows[:SHOWN_PAIRS]]
    more = len(rows) - len(shown)
    return f"pair{'s' if len(rows) > 1 else ''} {', '.join(shown)}{f' and {more:,} more' if more else ''}"


def pair_name(dataset: Dataset, row: int) -> str:
    """Return what a message calls one pair."""
    place = place_of(dataset, row)
    file = f" of {place['file']}" if place["file"] is not None else ""
    return f"{dataset[row]['pair_id']} (row {place['row']}{file})"
