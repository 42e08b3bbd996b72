"""Prompts that are also in evaluation sets, by shared word n-grams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Flagged, Section
from mixdpo.auditing.texts import chat_text, text_batches
from mixdpo.common.errors import InputError
from mixdpo.common.shingles import Shingles, shingles
from mixdpo.data.messages import WrongType, kind_of, read_messages
from mixdpo.data.sources import open_source

PROMPT_COLUMNS: Final = ("prompt", "instruction", "question", "turns", "messages", "conversations", "input", "text")
"""Where an evaluation set may have its prompts; the first that is there is used."""


def leakage_check(data: AuditData) -> Section:
    """Flag the pairs whose prompt is in an evaluation set."""
    if not data.evaluations:
        return Section(figures=None)
    settings = data.settings
    figures, leaked, texts = leak_figures(data.pairs, data.evaluations, settings.leak_ngram, settings.leak_share)
    notes = {int(row): f"in the evaluation set: {texts[leaked[row]]}" for row in np.flatnonzero(leaked >= 0)}
    return Section(figures=figures, flagged={"leaked": Flagged(group=leaked)}, notes=notes)


def read_evaluation_prompts(path: str) -> list[str]:
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
            hint=f"name it one of {', '.join(PROMPT_COLUMNS)}",
        )
    prompts = []
    for row, value in enumerate(source.dataset[column][:], start=1):
        try:
            prompts.append(_text(value))
        except WrongType as error:
            raise InputError(f"the value {error}", file=path, row=row, column=column) from error
    return prompts


def _text(value: Any) -> str:
    """Return a prompt's text: of a chat that of its messages, of MT-Bench's and Arena-Hard's turns all of them."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise WrongType(f"is {kind_of(value)}, not text or a list of messages")
    return chat_text(read_messages([_message(turn) for turn in value if turn]))


def _message(turn: Any) -> Any:
    if isinstance(turn, str):
        return {"role": "user", "content": turn}
    return {"role": "user", **turn} if isinstance(turn, dict) and turn.keys() == {"content"} else turn


def leak_figures(
    dataset: Dataset, evaluations: Mapping[str, Sequence[str]], n: int, least: float
) -> tuple[dict[str, Any], np.ndarray, dict[int, str]]:
    """Find pairs whose prompt holds at least `least` of the word n-grams of an evaluation prompt.

    An evaluation prompt of fewer than n words leaks only into a prompt of the same words.

    Returns:
        figures; the evaluation prompt leaked into each pair (int64 of shape (N,), its position in all evaluation
        prompts joined, -1 for none); and the text of those.
    """
    texts = [text for prompts in evaluations.values() for text in prompts]
    index = _index(texts, n)
    leaked = np.full(len(dataset), -1, dtype=np.int64)
    start = 0
    for batch in text_batches(dataset, "leakage"):
        leaked[start : start + len(batch)] = index.best(shingles(batch["prompt"], n), least)
        start += len(batch)
    figures, first = [], 0
    for name, prompts in evaluations.items():
        inside = (leaked >= first) & (leaked < first + len(prompts))
        hit = len(np.unique(leaked[inside]))
        figures.append({"name": name, "prompts": len(prompts), "leaked_prompts": hit, "pairs": int(inside.sum())})
        first += len(prompts)
    return {"ngram": n, "least": least, "sets": figures}, leaked, {i: texts[i] for i in np.unique(leaked) if i >= 0}


@dataclass(frozen=True, eq=False)
class _Index:
    """The n-grams of E evaluation prompts, each distinct one of a prompt once, sorted.

    Attributes:
        grams: the G distinct n-grams; uint64.
        first: where the prompts of each begin in `owner`, and how many there are; both int64, shape (G,).
        counts: see `first`.
        owner: evaluation prompts, n-gram after n-gram.
        sizes: distinct n-grams of each evaluation prompt; int64, shape (E,).
    """

    grams: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    owner: np.ndarray
    sizes: np.ndarray

    def best(self, found: Shingles, least: float) -> np.ndarray:
        """Return, per text, the evaluation prompt that shares most with it, -1 where none shares `least`."""
        result = np.full(len(found.starts) - 1, -1, dtype=np.int64)
        if len(self.grams) == 0:
            return result
        at = np.minimum(np.searchsorted(self.grams, found.grams), len(self.grams) - 1)
        hits = np.flatnonzero(self.grams[at] == found.grams)
        at, text = at[hits], found.owners()[hits]
        repeat = self.counts[at]
        within = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
        evaluation = self.owner[np.repeat(self.first[at], repeat) + within]
        shared = np.unique(np.column_stack([np.repeat(text, repeat), evaluation, np.repeat(at, repeat)]), axis=0)
        both, number = np.unique(shared[:, :2], axis=0, return_counts=True)
        overlap = number / self.sizes[both[:, 1]]
        enough = overlap >= least
        order = np.argsort(overlap[enough], kind="stable")
        result[both[enough][order, 0]] = both[enough][order, 1]  # the largest overlap is written last
        return result


def _index(texts: Sequence[str], n: int) -> _Index:
    parts = shingles(pl.Series("text", texts, dtype=pl.String), n)
    entries = pl.DataFrame({"gram": parts.grams, "owner": parts.owners()}).unique().sort("gram", "owner")
    grams, first, counts = np.unique(entries["gram"].to_numpy(), return_index=True, return_counts=True)
    owner = entries["owner"].to_numpy()
    return _Index(grams=grams, first=first, counts=counts, owner=owner, sizes=np.bincount(owner, minlength=len(texts)))
