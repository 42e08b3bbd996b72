"""How a message names pairs of a loaded data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from datasets import Dataset

SHOWN_PAIRS: Final = 5
"""How many pairs a message names."""


def pair_names(dataset: Dataset, rows: Sequence[int]) -> str:
    """Return what a message calls pairs: the id and the row of the file, from 1, of the first few.

    Args:
        dataset: pairs from `load_pairs`; without the column `source_row` it is their row in it.
        rows: index in `dataset` of each pair, at least one.
    """
    shown = dataset.select([int(row) for row in rows[:SHOWN_PAIRS]])
    files = shown["source_file"][:] if "source_file" in shown.column_names else [None] * len(shown)
    if "source_row" in shown.column_names:
        places = [f"row {row}" for row in shown["source_row"]]
    else:
        places = [f"loaded row {row + 1}" for row in rows[:SHOWN_PAIRS]]
    names = [
        f"{pair_id} ({place}{f' of {file}' if file is not None else ''})"
        for pair_id, place, file in zip(shown["pair_id"], places, files, strict=True)
    ]
    more = len(rows) - len(names)
    return f"pair{'s' if len(rows) > 1 else ''} {', '.join(names)}{f' and {more:,} more' if more else ''}"
