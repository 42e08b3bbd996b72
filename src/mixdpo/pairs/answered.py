"""Prompts with several answers, and how good each is: `generate` writes them, `rate` adds to them, `pairs` chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table, row_in_file, write_json_lines
from mixdpo.generation.answer_files import plain_text
from mixdpo.generation.prompts import prompt_of_row
from mixdpo.judges.judge import Chat

_TEXT: Final = "output"
_OWN: Final = ("instruction", "prompt", _TEXT, "generator", "finished", "tokens", "score")
_RATING: Final = "rating/"


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt.

    Attributes:
        text: without the reasoning before it.
        model: who wrote it.
        finished: whether the model ended its turn; None where the file does not say it.
        tokens: how many it has; None where the file does not say it.
        score: how good it is, larger is better; NaN where nothing says it.
        ratings: of each judge, by its name, in one unit; NaN for one that could not be read. `score` is their mean.
        columns: what else the file holds of it, such as `sample` and `seed`.
    """

    text: str
    model: str
    finished: bool | None = None
    tokens: int | None = None
    score: float = math.nan
    ratings: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt and the answers to it.

    Attributes:
        id: of the prompt in its set; its row from 0 where the set has none.
        id_column: what the set calls the id, else `index`.
        chat: (role, content) of the messages up to where the assistant is to speak.
        answers: in the order of the file.
    """

    id: str | int
    id_column: str
    chat: Chat
    answers: tuple[Answer, ...]


def read_answered(path: str | Path) -> list[AnsweredPrompt]:
    """Read prompts with their answers, one answer a row, in the order in which prompts come first.

    Raises:
        InputError: a file cannot be read, or a row has no prompt or no answer.
    """
    table = read_table(path)
    table.column(_TEXT)
    found: dict[tuple[Any, Chat], list[Answer]] = {}
    columns: dict[tuple[Any, Chat], str] = {}
    for place, row in enumerate(table.rows()):
        prompt = prompt_of_row(row, table.file, place)
        if len(prompt.turns) > 1:
            raise InputError(
                "pairs are made of answers in one turn", file=table.file, row=row_in_file(table.file, place)
            )
        key = (prompt.id if prompt.id_column != "index" or "index" in row else None, prompt.messages)
        found.setdefault(key, []).append(_answer(row, table.file, place, prompt.id_column))
        columns.setdefault(key, prompt.id_column)
    return [
        AnsweredPrompt(number if key[0] is None else key[0], columns[key], key[1], tuple(answers))
        for number, (key, answers) in enumerate(found.items())
    ]


def write_answered(path: Path, prompts: Sequence[AnsweredPrompt]) -> None:
    """Write prompts with their answers, one answer a row, as `read_answered` reads them back."""
    write_json_lines(path, answer_rows(prompts))


def answer_rows(prompts: Sequence[AnsweredPrompt]) -> Iterator[dict[str, Any]]:
    """Return a row for each answer; of a chat the prompt is messages, else a text."""
    for prompt in prompts:
        alone = len(prompt.chat) == 1
        asked = {"instruction": prompt.chat[0][1]} if alone else {"prompt": _messages(prompt.chat)}
        for answer in prompt.answers:
            yield {
                prompt.id_column: prompt.id,
                **asked,
                _TEXT: answer.text,
                "generator": answer.model,
                "tokens": answer.tokens,
                "finished": answer.finished,
                **answer.columns,
                **({} if math.isnan(answer.score) and not answer.ratings else {"score": _number(answer.score)}),
                **{f"{_RATING}{judge}": _number(rating) for judge, rating in answer.ratings.items()},
            }


def _answer(row: Mapping[str, Any], file: str, place: int, id_column: str) -> Answer:
    text = row[_TEXT]
    if not isinstance(text, str):
        raise InputError(f"not an answer: {text!r:.80}", file=file, row=row_in_file(file, place), column=_TEXT)
    ratings = {name.removeprefix(_RATING): _float(row[name]) for name in row if name.startswith(_RATING)}
    return Answer(
        text=text,
        model=plain_text(row.get("generator")),
        finished=row.get("finished"),
        tokens=row.get("tokens"),
        score=_float(row.get("score")),
        ratings=ratings,
        columns={
            name: value
            for name, value in row.items()
            if name not in _OWN and name != id_column and not name.startswith(_RATING)
        },
    )


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
