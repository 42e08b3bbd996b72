"""Pairs as polars tables of plain text, a batch at a time, whatever their form."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from mixdpo.data.messages import is_blank, message_text
from mixdpo.data.reasoning import MARKS, split_reasoning

BATCH: Final = 5_000
"""Pairs whose texts are in memory together."""

SIDES: Final = ("prompt", "chosen", "rejected")
_INSTRUCTIONS: Final = ("system", "developer")
_REASONING: Final = "|".join(map(re.escape, [*MARKS, "assistantfinal"]))


def text_batches(
    dataset: Dataset, description: str, rows: Sequence[int] | np.ndarray | None = None, context: bool = False
) -> Iterator[pl.DataFrame]:
    """Yield the pairs (of `rows`, default all) as tables with `row` (int64) and text in prompt, chosen, rejected.

    The text of messages is their contents and tool calls, joined by blank lines. System messages are left out, or
    every prompt under a common one would look alike; with `context` they are in a column of that name, with the
    tools, and `chosen/answer` and `rejected/answer` are the answers without their reasoning. `turns` (uint32) is the
    number of the prompt's other messages, 1 for texts, and `bad_turns` how many of them are blank, repeat the role
    before, or are the assistant's at the end.
    """
    part = dataset if rows is None else dataset.select(rows)
    numbers = pl.int_range(len(dataset), eager=True) if rows is None else pl.Series(list(rows), dtype=pl.Int64)
    wanted = (*SIDES, "tools") if context else SIDES
    names = [name for name in wanted if name in part.column_names]
    columns = part.select_columns(names).with_format("arrow")
    with _bar() as bar:
        task = bar.add_task(description, total=len(part))
        start = 0
        for batch in columns.iter(batch_size=BATCH):
            table = pl.DataFrame({name: _stored(batch[name]) for name in names})
            texts = {side: message_texts(table[side]) for side in SIDES}
            if context:
                texts["context"] = _context(table)
                texts |= {f"{side}/answer": _answers(table[side], texts[side]) for side in SIDES[1:]}
            turns, bad_turns = _turns(table["prompt"])
            yield pl.DataFrame(
                {"row": numbers[start : start + len(table)], "turns": turns, "bad_turns": bad_turns, **texts}
            )
            start += len(table)
            bar.advance(task, len(table))


def stored_column(dataset: Dataset, name: str) -> pl.Series:
    """Return a column as it is stored."""
    return pl.Series(name, _stored(dataset.select_columns([name]).with_format("arrow")[:][name]))


def message_texts(side: pl.Series, instructions: bool = False) -> pl.Series:
    """Return one text per pair of a column of texts or of message lists; with `instructions` of those alone."""
    if side.dtype == pl.String:
        return pl.repeat("", len(side), eager=True).rename(side.name) if instructions else side
    if not isinstance(side.dtype, pl.List) or not isinstance(side.dtype.inner, pl.Struct):
        texts = [chat_text(map(_message, messages), instructions) for messages in side.to_list()]
        return pl.Series(side.name, texts, dtype=pl.String)
    message = pl.element().struct
    wanted = pl.element().filter(message.field("role").is_in(_INSTRUCTIONS) == instructions)
    return side.list.eval(wanted).list.eval(_struct_text(side.dtype.inner)).list.join("\n\n", ignore_nulls=True)


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return messages stored as JSON (an extension type that polars does not know) as text."""
    kind = column.type
    if pa.types.is_list(kind) and isinstance(kind.value_type, pa.BaseExtensionType):
        return column.cast(pa.list_(kind.value_type.storage_type))
    return column


def _context(table: pl.DataFrame) -> pl.Series:
    """Return what stands over each prompt: its system messages and its tools."""
    context = message_texts(table["prompt"], instructions=True)
    return context if "tools" not in table.columns else context + table["tools"].fill_null("")


def _answers(side: pl.Series, texts: pl.Series) -> pl.Series:
    """Return the texts of `side` without the reasoning before each message's words."""
    marked = texts.str.contains(_REASONING).fill_null(False).arg_true()
    if marked.is_empty():
        return texts
    found = []
    for row in marked:
        value = side[row]
        said = [value] if isinstance(value, str) else _said(map(_message, value))
        found.append("\n\n".join(filter(None, (split_reasoning(text)[1] for text in said))))
    return texts.clone().scatter(marked, pl.Series(found, dtype=pl.String))


def _bar() -> Progress:
    """Return a progress bar with rate and estimate, on a terminal only."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} pairs/s" if task.speed else "")


def _turns(prompt: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return, per prompt, the number of messages and of bad ones."""
    if prompt.dtype == pl.String:
        one, none = (pl.repeat(value, len(prompt), dtype=pl.UInt32, eager=True) for value in (1, 0))
        return one, none
    if not isinstance(prompt.dtype, pl.List) or not isinstance(prompt.dtype.inner, pl.Struct):
        own = [[m for m in map(_message, messages) if m["role"] not in _INSTRUCTIONS] for messages in prompt]
        bad = [sum(map(_is_bad, [None, *turns], turns, [*turns[1:], None])) for turns in own]
        return pl.Series([len(turns) for turns in own], dtype=pl.UInt32), pl.Series(bad, dtype=pl.UInt32)
    message = pl.element().struct
    turns = prompt.list.eval(pl.element().filter(~message.field("role").is_in(_INSTRUCTIONS)))
    role = message.field("role")
    blank = _struct_text(prompt.dtype.inner).fill_null("").str.strip_chars() == ""
    repeated = (role == role.shift(1)).fill_null(False) & (role != "tool")
    answered = role.shift(-1).is_null() & (role == "assistant")
    return turns.list.len(), turns.list.eval((blank | repeated | answered).cast(pl.UInt32)).list.sum().cast(pl.UInt32)


def _is_bad(before: dict[str, Any] | None, turn: dict[str, Any], after: dict[str, Any] | None) -> bool:
    repeated = before is not None and before["role"] == turn["role"] != "tool"
    return is_blank(turn) or repeated or (after is None and turn["role"] == "assistant")


def _struct_text(kind: pl.Struct) -> pl.Expr:
    """Return what a message says, as `message_text` does; its tool calls are JSON text here, where it has any."""
    content = pl.element().struct.field("content")
    if pl.Field("tool_calls", pl.String()) not in kind.fields:
        return content
    parts = [part.replace("", None) for part in (content, pl.element().struct.field("tool_calls"))]
    return pl.concat_str(parts, separator="\n\n", ignore_nulls=True)


def chat_text(messages: Iterable[Mapping[str, Any]], instructions: bool = False) -> str:
    """Return the contents of messages, joined by blank lines: without system messages, or `instructions` alone."""
    return "\n\n".join(_said(messages, instructions))


def _said(messages: Iterable[Mapping[str, Any]], instructions: bool = False) -> list[str]:
    wanted = [message for message in messages if (message.get("role") in _INSTRUCTIONS) == instructions]
    return list(filter(None, map(message_text, wanted)))


def _message(value: Any) -> dict[str, Any]:
    # Messages with tool calls are stored as JSON text.
    return json.loads(value) if isinstance(value, (str, bytes)) else value
