"""A few pairs of each finding and of each bucket, side by side with differences marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any, Final

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.page_rows import row_labels
from mixdpo.auditing.texts import text_batches
from mixdpo.data.arrays import origins

EXAMPLE_CHARACTERS: Final = 1200
"""Of each text; with at most `MOST_EXAMPLES`, the page stays under 5 MB whatever the texts are."""
MOST_EXAMPLES: Final = 160
MOST_TOGETHER: Final = 4
"""Rows of one group."""
SHORT: Final = 3
"""Words in common between two differences that are too few to be read as common."""
_WORDS: Final = re.compile(r"\s*\S+|\s+$")


def choose_examples(
    flags: Mapping[str, np.ndarray], buckets: Mapping[str, np.ndarray], each: int, rng: np.random.Generator
) -> dict[int, list[str]]:
    """Return the rows to show and what each is an example of.

    Of a finding groups are drawn, and of each the first rows, so that both sides of a duplicate are seen; of
    ranked ones the first.

    Args:
        flags: by finding, the group of each pair, -1 for none; int64 of shape (N,).
        buckets: by name of a bucket, its rows.
        each: rows of every finding and bucket.
        rng: draws groups and rows.
    """
    shown: dict[int, list[str]] = {}
    for name, group in flags.items():
        rows = np.flatnonzero(group >= 0)
        if len(rows) == 0:
            continue
        members, member = np.unique(group[rows], return_inverse=True)
        rank = np.arange(len(members))
        if not FINDING_TYPES[name].ranked:
            rank[rng.permutation(len(members))] = np.arange(len(members))
        order = np.lexsort((rows, rank[member]))
        inside = np.arange(len(rows)) - np.searchsorted(np.sort(rank[member]), rank[member][order])
        few = inside < (MOST_TOGETHER if FINDING_TYPES[name].together else 1)
        for row in rows[order][few][:each].tolist():
            shown.setdefault(row, []).append(name)
    for name, rows in buckets.items():
        for row in np.sort(rng.permutation(rows)[:each]).tolist():
            shown.setdefault(row, []).append(name)
    return dict(list(shown.items())[:MOST_EXAMPLES])


def show(
    dataset: Dataset, chosen_rows: Mapping[int, list[str]], columns: Mapping[str, np.ndarray], notes: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the examples with their texts, and the row of the file that each is from.

    Args:
        dataset: the pairs.
        chosen_rows: from `choose_examples`.
        columns: numbers to show beside each pair, float64 of shape (N,).
        notes: what to add to a row, such as the evaluation prompt it holds.
    """
    rows = list(chosen_rows)
    if not rows:
        return []
    texts = [pair for batch in text_batches(dataset, "examples", rows) for pair in batch.iter_rows(named=True)]
    labels = row_labels(pl.DataFrame(origins(dataset.select(rows))))
    examples = []
    for row, pair, label in zip(rows, texts, labels, strict=True):
        first, second = marked(_clipped(pair["chosen"]), _clipped(pair["rejected"]))
        numbers = {name: float(values[row]) for name, values in columns.items() if np.isfinite(values[row])}
        examples.append(
            {
                "pair": row,
                "row": label,
                "of": chosen_rows[row],
                "prompt": _clipped(pair["prompt"]),
                "chosen": first,
                "rejected": second,
                "numbers": numbers,
                "note": _clipped(notes.get(row, "")),
            }
        )
    return examples


def marked(first: str, second: str) -> tuple[list[str], list[str]]:
    """Cut both texts into pieces that are alternately common (even positions) and different (odd ones)."""
    words = _WORDS.findall(first), _WORDS.findall(second)
    pieces: tuple[list[str], list[str]] = ([""], [""])
    codes = SequenceMatcher(None, *words, autojunk=False).get_opcodes()
    for position, (kind, low, high, low_other, high_other) in enumerate(codes):
        # Two answers share "of the" wherever they differ; marking all but that says less than marking it too.
        inside = 0 < position < len(codes) - 1
        is_same = kind == "equal" and not (inside and high - low < SHORT)
        for side, part in zip(
            pieces, ("".join(words[0][low:high]), "".join(words[1][low_other:high_other])), strict=True
        ):
            _add(side, part, is_same)
    return pieces


def _add(pieces: list[str], part: str, is_same: bool) -> None:
    """Add a part; white space before a difference stays unmarked."""
    if not is_same and len(pieces) % 2 == 1:
        bare = part.lstrip()
        pieces[-1] += part[: len(part) - len(bare)]
        part = bare
    if not part:
        return
    if (len(pieces) % 2 == 1) == is_same:
        pieces[-1] += part
    else:
        pieces.append(part)


def _clipped(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS] + " …"
