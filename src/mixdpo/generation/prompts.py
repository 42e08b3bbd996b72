"""Prompt sets as benchmarks publish them: AlpacaEval, Arena-Hard, MT-Bench with its turns, chats, plain prompts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.json_text import parse_json
from mixdpo.common.table_files import read_table, row_in_file
from mixdpo.common.text_limits import too_long
from mixdpo.data.data_settings import check_template_kwargs
from mixdpo.data.messages import WrongType, read_messages, without_nulls
from mixdpo.data.sources import open_source
from mixdpo.generation.answer_files import ID_COLUMNS, JOINED_BY_ID, plain_text

PROMPT_COLUMNS: Final = ("instruction", "prompt", "question", "messages", "conversations", "turns")


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer, in one turn or several.

    Attributes:
        id: of the prompt in its set; where the set has none, its row from 0.
        id_column: what the set calls the id, else `index`.
        history: (role, content) of the messages before the first turn.
        turns: what the user says in each turn.
        category: of the prompt, where the set names one.
        chat_template_kwargs: what the chat template is told about this prompt, JSON text of a mapping.
        columns: what else the set holds of it, such as a reference.
    """

    id: str | int
    id_column: str
    history: tuple[tuple[str, str], ...]
    turns: tuple[str, ...]
    category: str | None
    chat_template_kwargs: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """(role, content) of the history and of what the user says."""
        return (*self.history, *(("user", turn) for turn in self.turns))

    @property
    def text(self) -> str:
        """The prompt as one text; of a conversation with the roles."""
        return plain_text([{"role": role, "content": content} for role, content in self.messages])


def read_prompts(source: str | Path, split: str = "train", limit: int | None = None) -> list[Prompt]:
    """Read a file (parquet, CSV, JSON or JSON lines, plain or gzipped), a folder of them, or a data set of the hub.

    A row has its prompt in `instruction` (with Alpaca's `input` below it), `prompt`, `question` (text), `messages`,
    `conversations` or `prompt` (a chat, whose last answer is left out) or `turns`. A column `chat_template_kwargs`
    says what the chat template is told about each.

    Args:
        source: file, folder or hub id.
        split: of a folder or a data set.
        limit: number of prompts at most.

    Raises:
        InputError: no such file or data set, a row without a prompt, or a prompt or id that comes twice.
    """
    rows = read_rows(source, split)
    prompts = [prompt_of_row(row, str(source), place) for place, row in enumerate(rows[:limit])]
    seen: dict[str, int] = {}
    for place, prompt in enumerate(prompts):
        by_id = prompt.id_column in JOINED_BY_ID
        first = seen.setdefault(str(prompt.id) if by_id else prompt.text, place)
        if first != place:
            raise InputError(
                f"the same {prompt.id_column if by_id else 'prompt'} as in row {row_in_file(source, first)}",
                file=source,
                row=row_in_file(source, place),
                hint="keep each prompt once, or give each row an id of its own in a column id",
            )
    return prompts


def read_rows(source: str | Path, split: str = "train", texts: Collection[str] = ()) -> list[dict[str, Any]]:
    """Read the rows of a file, of a folder of files, or of a data set of the hub; `InputError` as `read_prompts`.

    Besides prompts, the columns `texts` of a CSV file are texts, also where all of them look like numbers.
    """
    file = Path(source).expanduser()
    in_table = file.is_file() and split == "train"
    if in_table:
        return read_table(file, (*PROMPT_COLUMNS, "input", *texts)).rows()
    return list(open_source(str(source), split=split).dataset)


def prompt_of_row(row: Mapping[str, Any], file: str, place: int) -> Prompt:
    """Return the prompt of a row; see `read_prompts`.

    Args:
        row: by column.
        file: that it is from.
        place: its number in there, from 0.
    """
    column = next((name for name in PROMPT_COLUMNS if row.get(name)), None)
    if column is None:
        raise InputError(f"no prompt ({', '.join(PROMPT_COLUMNS)})", file=file, row=row_in_file(file, place))
    value = row[column]
    if (fault := too_long(value)) is not None:
        raise InputError(f"the value {fault}", file=file, row=row_in_file(file, place), column=column)
    history: list[tuple[str, str]] = []
    if isinstance(value, str):
        further = row.get("input") if column == "instruction" else None
        turns = [f"{value}\n\n{further}" if isinstance(further, str) and further.strip() else value]
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        turns = list(value)
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        if any({"role", "from"} & set(item) for item in value):
            history, turns = _chat(value, file, place, column)
        else:  # Arena-Hard v0.1 has turns of {"content": ...}
            turns = [plain_text(item.get("content")) for item in value]
    else:
        raise InputError(f"not a prompt: {value!r:.80}", file=file, row=row_in_file(file, place), column=column)
    if not all(turn.strip() for turn in turns):
        raise InputError("the prompt is empty", file=file, row=row_in_file(file, place), column=column)
    id_column = next((name for name in ID_COLUMNS if isinstance(row.get(name), (str, int))), None)
    category = row.get("category")
    further_column = ["input"] if column == "instruction" else []
    read = {*PROMPT_COLUMNS, *further_column, "category", "chat_template_kwargs", id_column}
    return Prompt(
        id=row[id_column] if id_column else place,
        id_column=id_column or "index",
        history=tuple(history),
        turns=tuple(turns),
        category=category if isinstance(category, str) else None,
        chat_template_kwargs=_template_kwargs(row.get("chat_template_kwargs"), file, place),
        columns={name: value for name, value in row.items() if name not in read},
    )


def _template_kwargs(value: Any, file: str, place: int) -> str | None:
    """Return the JSON text of a mapping that a file holds as one or as such a text."""
    if not value:
        return None
    try:
        found = without_nulls(parse_json(value) if isinstance(value, str) else value)
        check_template_kwargs(found)
    except (json.JSONDecodeError, InputError) as error:
        raise InputError(
            f"not settings of a chat template: {value!r:.80}", file=file, row=row_in_file(file, place),
            column="chat_template_kwargs", hint='write them as a mapping, such as {"enable_thinking": false}',
        ) from error  # fmt: skip
    return json.dumps(found, sort_keys=True) if found else None


def _chat(
    messages: list[dict[str, Any]], file: str, place: int, column: str
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the messages before the last turn of the user, and that turn."""
    try:
        chat = [(message["role"], message.get("content")) for message in read_messages(messages)]
    except WrongType as error:
        raise InputError(f"the value {error}", file=file, row=row_in_file(file, place), column=column) from error
    if chat[-1][0] == "assistant":
        chat.pop()
    texts = [(role, content) for role, content in chat if isinstance(content, str)]
    if len(texts) < len(chat) or not texts or texts[-1][0] != "user":
        raise InputError(
            "the chat holds no text of a user to answer", file=file, row=row_in_file(file, place), column=column
        )
    return texts[:-1], [texts[-1][1]]
