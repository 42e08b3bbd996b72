"""Prompt sets as benchmarks publish them: AlpacaEval, Arena-Hard, MT-Bench with its turns, chats, plain prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mixdpo.data.sources import open_source
from mixdpo.errors import InputError
from mixdpo.evaluation.tables import read_table

_IDS: Final = ("uid", "question_id", "id", "prompt_id")
_TEXTS: Final = ("instruction", "prompt", "question", "messages", "turns")
_HUB_SPLITS: Final = ("eval", "test", "train", "test_prefs", "validation")


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer, in one turn or several.

    Attributes:
        id: what answers are joined on; None where the set has no ids, and the text says which prompt it is.
        id_column: what the set calls the id.
        history: (role, content) of the messages before the first turn.
        turns: what the user says in each turn.
        category: of the prompt, where the set names one.
    """

    id: str | None
    id_column: str
    history: tuple[tuple[str, str], ...]
    turns: tuple[str, ...]
    category: str | None

    @property
    def text(self) -> str:
        """All that the user says, as one text."""
        return "\n\n".join([*(content for role, content in self.history if role == "user"), *self.turns])


def read_prompts(source: str | Path, split: str | None = None, limit: int | None = None) -> list[Prompt]:
    """Read a file (parquet, CSV, JSON or JSON lines, plain or gzipped) or a data set of the hub.

    A row has its prompt in `instruction`, `prompt`, `question` (text), `messages` or `prompt` (a chat, whose last
    answer is left out) or `turns`, and its id in `uid`, `question_id`, `id` or `prompt_id`, if it has one.

    Raises:
        InputError: no such file or data set, a row without a prompt, or a prompt or id that comes twice.
    """
    file = Path(source).expanduser()
    rows = read_table(file).rows() if file.is_file() else _hub_rows(str(source), split)
    prompts = [_prompt(row, str(source), number) for number, row in enumerate(rows, start=1)]
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        first = seen.setdefault(prompt.id or prompt.text, number)
        if first != number:
            raise InputError(
                f"the same prompt as in row {first}", file=source, row=number, mend="give each row an id of its own"
            )
    return prompts[:limit]


def _hub_rows(source: str, split: str | None) -> list[dict[str, Any]]:
    if split is not None:
        return list(open_source(source, split=split).dataset)
    for candidate in _HUB_SPLITS:
        try:
            return list(open_source(source, split=candidate).dataset)
        except InputError as error:
            if "no split" not in str(error):
                raise
    raise InputError("which split holds the prompts is not clear", file=source, mend="name it with --split")


def _prompt(row: Mapping[str, Any], file: str, number: int) -> Prompt:
    id_column = next((name for name in _IDS if isinstance(row.get(name), (str, int))), "id")
    id = row.get(id_column)
    value = next((row[name] for name in _TEXTS if row.get(name)), None)
    history: list[tuple[str, str]] = []
    if isinstance(value, str):
        turns = [value]
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        turns = list(value)
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        if all("role" not in item for item in value):  # Arena-Hard v0.1 has turns of {"content": ...}
            turns = [str(item.get("content") or "") for item in value]
        else:
            history, turns = _chat(value, file, number)
    else:
        raise InputError(f"no prompt ({', '.join(_TEXTS)})", file=file, row=number)
    if not all(turn.strip() for turn in turns):
        raise InputError("the prompt is empty", file=file, row=number)
    category = row.get("category")
    return Prompt(
        str(id) if id is not None else None,
        id_column,
        tuple(history),
        tuple(turns),
        category if isinstance(category, str) else None,
    )


def _chat(messages: list[dict[str, Any]], file: str, number: int) -> tuple[list[tuple[str, str]], list[str]]:
    chat = [(str(message["role"]), message.get("content")) for message in messages]
    while chat and chat[-1][0] == "assistant":
        chat.pop()
    if not chat or chat[-1][0] != "user" or not all(isinstance(content, str) for _, content in chat):
        raise InputError("the chat holds no text of a user to answer", file=file, row=number)
    texts = [(role, str(content)) for role, content in chat]
    return texts[:-1], [texts[-1][1]]
