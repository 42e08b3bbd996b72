"""Answers of a model as files hold them: by prompt or by id, in this project's columns and in those of other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import TableFile, read_table, row_in_file
from mixdpo.data.reasoning import split_reasoning

JOINED_BY_ID: Final = ("uid", "question_id", "id")
"""Ids by which judges put two models' answers side by side; the others may be mere row numbers, and there they compare
the texts of the prompts."""
ID_COLUMNS: Final = (*JOINED_BY_ID, "prompt_id", "instruction_index", "index")
_PROMPTS: Final = ("prompt", "instruction", "question", "turns")
_ANSWERS: Final = ("answer", "output", "response", "completion", "text", "choices", "messages")
_REASONING: Final = ("reasoning", "reasoning_content", "thinking")
_NAMES: Final = ("generator", "model", "model_id")
_Given = TypeVar("_Given")


@dataclass(frozen=True)
class PromptTexts:
    """Texts of prompts, for answers that come without.

    Attributes:
        id_column: what their file calls the ids; None where it has none.
        by_id: text of each prompt by its id, or by its row from 0 where the file has no ids.
    """

    id_column: str | None
    by_id: Mapping[str, str]


@dataclass(frozen=True)
class ReasoningCount:
    """How many answers came after reasoning, which is not judged, and how many of these are reasoning alone."""

    answers: int
    with_reasoning: int = 0
    without_answer: int = 0

    def __str__(self) -> str:
        alone = f"; {self.without_answer:,} of them hold no answer" if self.without_answer else ""
        return f"{self.with_reasoning:,} of {self.answers:,} answers come after reasoning, which is not judged{alone}"


def without_reasoning(answers: Sequence[str]) -> tuple[list[str], ReasoningCount]:
    """Return answers without their reasoning, and how many had some."""
    split = [split_reasoning(answer) for answer in answers]
    thought = [answer for reasoning, answer in split if reasoning is not None]
    count = ReasoningCount(len(split), len(thought), sum(not answer.strip() for answer in thought))
    return [answer for _, answer in split], count


@dataclass(frozen=True)
class AnswerFile:
    """One answer per prompt, in the order of the file, without the reasoning before it.

    Attributes:
        file: where it is from.
        name: of the model: the first row's `generator`, `model` or `model_id`, else the file's own.
        id_column: what the file calls the ids; None where it has none.
        ids: id of each prompt, as text; None where the file has none.
        prompts: text of each prompt; None where the file has none.
        categories: of each prompt; None where the file has none.
        turns: texts of each answer, one for each turn.
        reasoning: how many answers had some, in their text or beside it.
    """

    file: str
    name: str
    id_column: str | None
    ids: list[str] | None
    prompts: list[str] | None
    categories: list[str | None] | None
    turns: list[tuple[str, ...]]
    reasoning: ReasoningCount

    @property
    def answers(self) -> list[str]:
        """Text of each answer, its turns below each other."""
        return list(map(_one_text, self.turns))

    def answers_at(self, row: int) -> str:
        """Return the answer of a row, from 0."""
        return _one_text(self.turns[row])

    def only(self, rows: Sequence[int]) -> AnswerFile:
        """Return the answers of these rows alone."""

        def of(values: list[_Given] | None) -> list[_Given] | None:
            return None if values is None else [values[row] for row in rows]

        turns = [self.turns[row] for row in rows]
        return replace(self, ids=of(self.ids), prompts=of(self.prompts), categories=of(self.categories), turns=turns)

    def keys(self) -> list[str]:
        """Return the ids, or the rows from 0 where the file has none."""
        return self.ids or [str(row) for row in range(len(self.turns))]

    def texts(self, known: PromptTexts | None) -> list[str]:
        """Return the prompt of each row: its own, else the known one of the same id; nothing where neither says it."""
        by_id = known.by_id if known is not None and self._numbered_like(known) else {}
        own = self.prompts or [""] * len(self.turns)
        return [text or by_id.get(key, "") for text, key in zip(own, self.keys(), strict=True)]

    def _numbered_like(self, known: PromptTexts) -> bool:
        """Whether equal keys mean the same prompt; those that are mere row numbers only do in whole files."""
        columns = {self.id_column, known.id_column}
        return columns <= set(JOINED_BY_ID) or (columns == {None} and len(self.turns) == len(known.by_id))

    def by_id(self) -> dict[str, str]:
        """Return the answers by `keys`.

        Raises:
            InputError: an id comes twice with different answers.
        """
        return _by_key(self.keys(), self.answers, self.file)

    def turns_by_id(self) -> dict[str, tuple[str, ...]]:
        """Return the turns of each answer by its id; none where ids may be mere row numbers.

        Raises:
            InputError: an id comes twice with different answers.
        """
        return _by_key(self.keys(), self.turns, self.file) if self.id_column in JOINED_BY_ID else {}

    def by_prompt(self) -> dict[str, str]:
        """Return the answers by text of the prompt.

        Raises:
            InputError: the file has no prompts, or one comes twice with different answers.
        """
        if self.prompts is None:
            raise InputError("no column holds the prompts", file=self.file, hint="add a column prompt")
        return _by_key(self.prompts, self.answers, self.file)


def read_answers(path: str | Path, column: str | None = None) -> AnswerFile:
    """Read answers, as text or as messages; of a conversation that is its last assistant's turn.

    Args:
        path: parquet, CSV, JSON or JSON lines.
        column: of the answers; by default the first there is of answer, output, response, completion, text, choices
            (as MT-Bench stores them) and messages (as Arena-Hard does).

    Raises:
        InputError: no such column, or a value that is no answer.
    """
    table = read_table(path, (*_PROMPTS, *_ANSWERS, *([column] if column else [])))
    answers = table.column(column) if column else table.column(*_ANSWERS)
    name = column or next(name for name in _ANSWERS if name in table)
    prompts = next((table.columns[key] for key in _PROMPTS if key in table), None)
    id_column = _id_column(table)
    given = [answer_turns(value, table.file, place, name) for place, value in enumerate(answers)]
    split = [[split_reasoning(turn) for turn in turns] for turns in given]
    thought = [
        [answer for reasoning, answer in turns if reasoning is not None or beside]
        for turns, beside in zip(split, map(_thinks, answers, *_columns(table, _REASONING)), strict=True)
    ]
    return AnswerFile(
        file=table.file,
        name=_name(table),
        id_column=id_column,
        ids=table.ids(id_column) if id_column else None,
        prompts=[plain_text(prompt) for prompt in prompts] if prompts is not None else None,
        categories=table.columns.get("category"),
        turns=[tuple(answer for _, answer in turns) for turns in split],
        reasoning=ReasoningCount(
            answers=len(split),
            with_reasoning=sum(map(bool, thought)),
            without_answer=sum(not all(answer.strip() for answer in answers) for answers in thought),
        ),
    )


def _columns(table: TableFile, names: Sequence[str]) -> list[list[Any]]:
    return [table.columns.get(name, [None] * len(table)) for name in names]


def _thinks(answer: Any, *beside: Any) -> bool:
    """Whether a row, or the last message of a conversation, holds reasoning beside its answer."""
    message = answer[-1] if isinstance(answer, list) and answer and isinstance(answer[-1], dict) else {}
    return any(any(value) if isinstance(value, list) else value for value in (*beside, *map(message.get, _REASONING)))


def _one_text(turns: Sequence[str]) -> str:
    return "\n\n".join(turns)


def read_prompt_texts(path: str | Path) -> PromptTexts:
    """Read the text of every prompt."""
    table = read_table(path)
    id_column = _id_column(table)
    ids = table.ids(id_column) if id_column else [str(row) for row in range(len(table))]
    return PromptTexts(id_column, dict(zip(ids, map(plain_text, table.column(*_PROMPTS)), strict=True)))


def _id_column(table: TableFile) -> str | None:
    return next((name for name in ID_COLUMNS if name in table), None)


def _name(table: TableFile) -> str:
    named = next((table.columns[name][0] for name in _NAMES if name in table), None)
    return named if isinstance(named, str) and named else Path(table.file).name.split(".")[0]


def plain_text(value: Any) -> str:
    """Return a prompt as one text: messages and turns below each other, of a single user's message its content."""
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
            return plain_text(value[0].get("content"))
        return "\n\n".join(
            f"{item['role']}: {plain_text(item.get('content'))}"
            if isinstance(item, dict) and item.get("role")
            else plain_text(item)
            for item in value
        )
    if isinstance(value, dict):  # Arena-Hard stores {"answer": ...} as the content of a message, turns as {"content"}
        return plain_text(value.get("answer", value.get("text", value.get("content"))))
    return "" if value is None else str(value)


def answer_turns(value: Any, file: str, place: int, column: str) -> tuple[str, ...]:
    """Return the texts of an answer, one for each turn: a text, or messages, of which the last is the assistant's.

    Args:
        value: of the cell.
        file: that it is from.
        place: the number of its row in there, from 0.
        column: that it is in.

    Raises:
        InputError: it is no answer.
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        if isinstance(turns := value[0].get("turns"), list) and turns:  # MT-Bench, Arena-Hard v0.1
            return tuple(plain_text(turn.get("content") if isinstance(turn, dict) else turn) for turn in turns)
        if value[-1].get("role") == "assistant":
            return (plain_text(value[-1].get("content")),)
    raise InputError(f"not an answer: {value!r:.80}", file=file, row=row_in_file(file, place), column=column)


def _by_key(keys: Sequence[str], answers: Sequence[_Given], file: str) -> dict[str, _Given]:
    found: dict[str, _Given] = {}
    for place, (key, answer) in enumerate(zip(keys, answers, strict=True)):
        if found.setdefault(key, answer) != answer:
            raise InputError(f"a second, different answer to {key!r:.80}", file=file, row=row_in_file(file, place))
    return found
