"""Prompts that are also in evaluation sets, by shared word n-grams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.shingles import shingles
from mixdpo.auditing.texts import message_texts, text_batches
from mixdpo.data.sources import open_source
from mixdpo.errors import InputError

PROMPT_COLUMNS: Final = ("prompt", "instruction", "question", "turns", "messages", "input", "text")
"""Where an evaluation set may have its prompts; the first that is there is used."""


def read_prompts(path: str) -> list[str]:
    """Return the prompts of an evaluation set (a file, folder or hub id).

    Raises:
        InputError: it cannot be read or has none of `PROMPT_COLUMNS`.
    """
    source = open_source(path)
    columns = source.dataset.column_names
    column = next((name for name in PROMPT_COLUMNS if name in columns), None)
    if column is None:
        raise InputError(
            f"no column holds prompts (there are {', '.join(columns)})",
            file=path,
            mend=f"name it one of {', '.join(PROMPT_COLUMNS)}",
        )
    values = pl.Series(column, pl.DataFrame(source.dataset.select_columns([column]).with_format("arrow")[:])[column])
    if values.dtype == pl.List(pl.String):
        return values.list.join("\n\n", ignore_nulls=True).to_list()
    if values.dtype != pl.String and not isinstance(values.dtype, pl.List):
        raise InputError(f"the prompts are {values.dtype}, not text or messages", file=path, column=column)
    return message_texts(values).fill_null("").to_list()


def leak_figures(
    dataset: Dataset, evaluations: Mapping[str, Sequence[str]], n: int, least: float
) -> tuple[dict[str, Any], np.ndarray, dict[int, str]]:
    """Find pairs whose prompt holds at least `least` of the word n-grams of an evaluation prompt.

    An evaluation prompt of fewer than n words leaks only into a prompt of the same words.

    Returns:
        figures; the evaluation prompt leaked into each pair (int64 of shape (N,), its place in all evaluation
        prompts joined, -1 for none); and the text of those.
    """
    texts = [text for prompts in evaluations.values() for text in prompts]
    parts = shingles(pl.Series("text", texts, dtype=pl.String), n)
    owner = parts.owners()
    # Every distinct n-gram of an evaluation prompt once, sorted, so that a look-up is a binary search.
    entries = np.unique(np.rec.fromarrays([parts.grams, owner], names="gram,owner"))
    known, first, counts = np.unique(entries["gram"], return_index=True, return_counts=True)
    sizes = np.bincount(entries["owner"], minlength=len(texts))
    leaked = np.full(len(dataset), -1, dtype=np.int64)
    start = 0
    for batch in text_batches(dataset, "leakage"):
        found = shingles(batch["prompt"], n)
        if len(known):
            _mark(
                leaked[start : start + len(batch)],
                found.grams,
                found.owners(),
                known,
                first,
                counts,
                entries,
                sizes,
                least,
            )
        start += len(batch)
    figures, place = [], 0
    for name, prompts in evaluations.items():
        inside = (leaked >= place) & (leaked < place + len(prompts))
        hit = len(np.unique(leaked[inside]))
        figures.append({"name": name, "prompts": len(prompts), "leaked_prompts": hit, "pairs": int(inside.sum())})
        place += len(prompts)
    return {"ngram": n, "least": least, "sets": figures}, leaked, {i: texts[i] for i in np.unique(leaked) if i >= 0}


def _mark(
    leaked: np.ndarray,
    grams: np.ndarray,
    owners: np.ndarray,
    known: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
    entries: np.ndarray,
    sizes: np.ndarray,
    least: float,
) -> None:
    """Write into `leaked` the evaluation prompt that shares most with each text of a batch, where it is enough."""
    at = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    hits = np.flatnonzero(known[at] == grams)
    if len(hits) == 0:
        return
    at, text = at[hits], owners[hits]
    repeat = counts[at]
    within = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    evaluation = entries["owner"][np.repeat(first[at], repeat) + within]
    shared = np.unique(np.column_stack([np.repeat(text, repeat), evaluation, np.repeat(at, repeat)]), axis=0)
    both, number = np.unique(shared[:, :2], axis=0, return_counts=True)
    overlap = number / sizes[both[:, 1]]
    enough = overlap >= least
    order = np.argsort(overlap[enough], kind="stable")
    leaked[both[enough][order, 0]] = both[enough][order, 1]  # the largest overlap is written last
