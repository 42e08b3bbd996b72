"""Prompts with several answers, and how good each is: `generate` writes them, `rate` adds to them, `pairs` chooses."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import row_in_file
from mixdpo.data.columns import prompt_part
from mixdpo.data.messages import kind_of
from mixdpo.data.printed import parse_text
from mixdpo.data.reasoning import split_reasoning
from mixdpo.data.scored_answers import (
    ANSWERS,
    MODEL_KEYS,
    MODEL_LISTS,
    PROMPTS,
    RANK_KEY,
    SCORE_KEYS,
    SCORE_LISTS,
    first_there,
    read_score,
    score_key_of,
    scored_answers,
)
from mixdpo.data.views import ViewFault
from mixdpo.generation.answer_files import answer_turns, plain_text
from mixdpo.generation.output_files import write_rows
from mixdpo.generation.prompts import PROMPT_COLUMNS, Prompt, prompt_of_row, read_rows
from mixdpo.judges.judge import Chat

_log = logging.getLogger(__name__)

_TEXTS: Final = ("output", "response", "completion", "answer", "generation", "text")
"""Columns of an answer a row, ours first."""
_SCORES: Final = ("score", *SCORE_KEYS)
_TOLD: Final = "chat_template_kwargs"
_OWN: Final = (*PROMPT_COLUMNS, "input", _TOLD, "output", "generator", "finished", "tokens", "score")
"""Columns of the file that we write, and those that prompts are read from."""
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
        chat_template_kwargs: what the chat template is told about this prompt, JSON text of a mapping.
    """

    id: str | int
    id_column: str
    chat: Chat
    answers: tuple[Answer, ...]
    chat_template_kwargs: str | None = None


def read_answered(source: str | Path, split: str = "train") -> list[AnsweredPrompt]:
    """Read prompts with their answers, in the order in which prompts come first.

    An answer a row, as `generate` and `rate` write them or under the names of other tools; or all answers to a prompt
    in a row, as UltraFeedback, distilabel, Nectar and SimPO keep them. Of what is not in our own columns, the log says
    where it is read from.

    Args:
        source: file, folder or hub id.
        split: of a folder or hub id.

    Raises:
        InputError: the source cannot be read, or a row has no prompt, no answer, or a score of the wrong type.
    """
    rows, file = read_rows(source, split, _TEXTS), str(source)
    layout = _layout(rows, file)
    _say(layout, rows, file)
    found: dict[tuple[Any, Chat], list[Answer]] = {}
    asked: dict[tuple[Any, Chat], Prompt] = {}
    for place, row in enumerate(rows):
        prompt = prompt_of_row(row if layout.prompt is None else {"prompt": row[layout.prompt]} | row, file, place)
        if len(prompt.turns) > 1:
            raise _several_turns(file, place)
        key = (prompt.id if prompt.id_column != "index" or "index" in row else None, prompt.messages)
        try:
            answers = layout.answers(row, file, place, prompt.id_column)
        except ViewFault as fault:
            raise InputError(
                f"the value {fault}", file=file, row=row_in_file(file, place), column=fault.column
            ) from fault
        found.setdefault(key, []).extend(answers)
        asked.setdefault(key, prompt)
    return [
        AnsweredPrompt(
            number if key[0] is None else key[0], asked[key].id_column, key[1], tuple(answers),
            asked[key].chat_template_kwargs,
        )
        for number, (key, answers) in enumerate(found.items())
    ]  # fmt: skip


def write_answered(path: Path, prompts: Sequence[AnsweredPrompt]) -> None:
    """Write prompts with their answers, one answer a row, as `read_answered` reads them back."""
    write_rows(path, answer_rows(prompts))


def answer_rows(prompts: Sequence[AnsweredPrompt]) -> Iterator[dict[str, Any]]:
    """Return a row for each answer; of a chat the prompt is messages, else a text."""
    for prompt in prompts:
        alone = len(prompt.chat) == 1
        asked: dict[str, Any] = {"instruction": prompt.chat[0][1]} if alone else {"prompt": _messages(prompt.chat)}
        if prompt.chat_template_kwargs is not None:
            asked[_TOLD] = prompt.chat_template_kwargs
        for answer in prompt.answers:
            yield {
                prompt.id_column: prompt.id,
                **asked,
                _TEXTS[0]: answer.text,
                "generator": answer.model,
                "tokens": answer.tokens,
                "finished": answer.finished,
                **answer.columns,
                **({} if math.isnan(answer.score) and not answer.ratings else {"score": _number(answer.score)}),
                **{f"{_RATING}{judge}": _number(rating) for judge, rating in answer.ratings.items()},
            }


@dataclass(frozen=True)
class _Layout:
    """Where a file has what; empty where it has it nowhere.

    Attributes:
        text: the column of the answers.
        several: whether it holds all answers to a prompt in a row.
        score: the column of the scores; of answers that are objects, the key in them.
        model: the column of who wrote them.
        prompt: the column of the prompt, where it is none that `prompt_of_row` knows.
    """

    text: str
    several: bool
    score: str
    model: str
    prompt: str | None = None

    def answers(self, row: Mapping[str, Any], file: str, place: int, id_column: str) -> list[Answer]:
        """Return the answers in a row; raises `ViewFault` and `InputError`."""
        if self.several:
            read = {self.text, self.score, self.model, self.prompt, *SCORE_LISTS, *MODEL_LISTS}
            columns = {
                name: value for name, value in _others(row, id_column, read) if isinstance(value, (str, int, float))
            }
            given = scored_answers(
                {name: _as_list(value) if name in read else value for name, value in row.items()}, self.score
            )
            return [
                _answer(one.answer, file, place, self.text, columns, model=one.model or "", score=one.score)
                for one in given
            ]
        ratings = {name for name in row if name.startswith(_RATING)}
        score = read_score(row.get(self.score), self.score)
        return [
            _answer(
                row[self.text], file, place, self.text,
                dict(_others(row, id_column, {self.text, self.score, self.model, *ratings})),
                model=plain_text(row.get(self.model)),
                finished=_finished(row.get("finished")),
                tokens=row.get("tokens"),
                score=-score if self.score == RANK_KEY else score,
                ratings={name.removeprefix(_RATING): read_score(row[name], name) for name in sorted(ratings)},
            )
        ]  # fmt: skip


def _layout(rows: Sequence[Mapping[str, Any]], file: str) -> _Layout:
    there = rows[0]
    several = next((name for name in ANSWERS if any(_holds_list(row.get(name)) for row in rows)), None)
    if several is not None:
        objects = [item for row in rows for item in _as_list(row.get(several)) or ()]
        in_objects = any(isinstance(item, Mapping) for item in objects)
        score = score_key_of(objects) if in_objects else first_there(SCORE_LISTS, there)
        known = any(name in there for name in PROMPT_COLUMNS)
        return _Layout(several, True, score, "", None if known else first_there(PROMPTS, there) or None)
    text = first_there(_TEXTS, there)
    if not text:
        raise InputError(
            f"no column holds the answers (there are {', '.join(there)})", file=file,
            hint=f"call it {_TEXTS[0]}, with an answer a row; or {ANSWERS[0]}, with a list of all answers to a prompt",
        )  # fmt: skip
    return _Layout(text, False, first_there((*_SCORES, RANK_KEY), there), first_there(MODEL_KEYS, there))


def _say(layout: _Layout, rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Log where answers and scores are read from if not from our own columns, and what may be lost."""
    if (layout.text, layout.score) not in ((_TEXTS[0], _SCORES[0]), (_TEXTS[0], "")):
        scores = f"scores from {layout.score}" if layout.score else "there are no scores"
        turned = ", the best first: a score is the rank with a minus" if layout.score == RANK_KEY else ""
        _log.info("%s: answers are read from %s, %s%s", file, layout.text, scores, turned)
    models = first_there(MODEL_LISTS, rows[0]) if layout.several else ""
    unnamed = [row for row in rows if models and _other_length(row.get(models), row.get(layout.text))]
    if unnamed:
        _log.warning(
            "%s: %d rows have another number of %s than of answers, and it is not known who wrote these",
            file, len(unnamed), models,
        )  # fmt: skip
    parts = [name for name in rows[0] if prompt_part(name) in ("system", "history")]
    lost = [name for name in parts if any(row.get(name) for row in rows)]
    if lost:
        _log.warning("%s: not read, and perhaps a part of the prompt: %s", file, ", ".join(lost))


def _answer(value: Any, file: str, place: int, column: str, columns: Mapping[str, Any], **known: Any) -> Answer:
    """Return an answer, with the reasoning before its text as a column."""
    turns = ("",) if value is None else answer_turns(value, file, place, column)
    if len(turns) > 1:
        raise _several_turns(file, place)
    reasoning, text = split_reasoning(turns[0])
    return Answer(text=text, columns={**columns, **({} if reasoning is None else {"reasoning": reasoning})}, **known)


def _finished(value: Any) -> bool | None:
    """Raise `ViewFault` for what is neither true nor false: "false" as a text would count as an end."""
    if value is None or isinstance(value, bool):
        return value
    raise ViewFault("finished", f"is {kind_of(value)}, not true or false")


def _several_turns(file: str, place: int) -> InputError:
    return InputError("pairs are made of answers in one turn", file=file, row=row_in_file(file, place))


def _others(row: Mapping[str, Any], id_column: str, read: Collection[str | None]) -> Iterator[tuple[str, Any]]:
    """Yield the columns that are not read, under names that are not those of a file that we write."""
    yield from ((name, value) for name, value in row.items() if name not in (*_OWN, id_column, *read))


def _other_length(names: Any, answers: Any) -> bool:
    names, answers = _as_list(names), _as_list(answers)
    return isinstance(names, list) and isinstance(answers, list) and len(names) != len(answers)


def _holds_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def _as_list(value: Any) -> Any:
    """Return a list that CSV holds as text."""
    if not isinstance(value, str) or not _holds_list(value):
        return value
    try:
        return parse_text(value)
    except ValueError:
        return value


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
