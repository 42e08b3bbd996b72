"""Refusing texts without a column of prompts beside a column that holds them, under whatever name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from datasets import Features

from mixdpo.common.errors import InputError
from mixdpo.data.column_names import bare, mapping_hint, prompts_among
from mixdpo.data.columns import PairColumns, holds_messages, is_text, prompt_part, unread_columns
from mixdpo.data.prompts import DropPair, split_text
from mixdpo.data.turns import announces_answer

_PROMPT_WORDS: Final = 3
"""Words from which a text may be a prompt, in most rows; a kind, a name or a date has fewer."""


def check_prompt_is_read(
    source: Features, columns: PairColumns, rows: Sequence[Mapping[str, Any]], file: str | None = None
) -> None:
    """Raise `InputError` for texts without a column of prompts beside a column that looks like one.

    It looks like one by its name; or by its texts, where no answer begins with turns that tell the prompt. Such pairs
    would be trained on the words their answers happen to begin with.

    Args:
        source: the columns of the source with their types.
        columns: what is read from it.
        rows: the first ones.
        file: the source, for messages.
    """
    unread = unread_columns(list(source), columns) if columns.prompt is None else []
    texts = [name for name in unread if is_text(source[name])]
    named = [*prompts_among(texts), *(name for name in unread if holds_messages(source[name]))]
    said = [] if any(_announces(row, columns) for row in rows) else [name for name in texts if _asks(rows, name)]
    parts = {key: name for name in unread if (key := prompt_part(name)) in ("system", "history")}
    for found in [*named, *said][:1]:
        raise InputError(
            f"there is no column 'prompt', and there is a column {found!r}",
            file=file,
            hint=mapping_hint({"prompt": found, **parts}),
        )


def prompts_unread(source: Features, columns: PairColumns) -> list[str]:
    """Return the columns that may hold the prompts of single answers, which begin with none, the likeliest first."""
    unread = unread_columns(list(source), columns) if columns.prompt is None else []
    named = prompts_among([name for name in unread if is_text(source[name])])
    return [*(name for name in unread if holds_messages(source[name])), *named]


def _announces(row: Mapping[str, Any], columns: PairColumns) -> bool:
    """Whether both answers of a row begin with turns, of which the last announces an answer."""
    sides = (row[columns.chosen], row[columns.rejected])
    if not all(isinstance(side, str) for side in sides):  # told where all rows are read
        return False
    try:
        return announces_answer(split_text(None, *sides)[0])
    except DropPair:
        return False


def _asks(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether most rows have a text of several words in a column, and most of these are different."""
    if bare(name).endswith("_id"):
        return False
    texts = [row[name] for row in rows if isinstance(row[name], str) and len(row[name].split()) >= _PROMPT_WORDS]
    return 2 * len(texts) > len(rows) and 2 * len(set(texts)) > len(texts)
