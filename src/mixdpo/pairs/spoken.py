"""Loaded pairs as judges read them: the prompt as a chat, the answers as texts, all without reasoning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixdpo.data.columns import is_quality
from mixdpo.data.messages import message_text
from mixdpo.data.reasoning import split_reasoning
from mixdpo.data.training_columns import says_how_to_train
from mixdpo.generation.answer_files import plain_text
from mixdpo.judges.judge import Chat

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE: Final = 10_000
_OF_PAIRS: Final = (
    *("pair_id", "prompt", "chosen", "rejected", "tools", "chat_template_kwargs", "score_chosen", "score_rejected"),
    *("margin", "ratings_chosen", "ratings_rejected", "source", "source_row", "source_file"),
)
"""Columns of loaded pairs that `load_pairs` makes; the others are the data's own."""


@dataclass(frozen=True)
class SpokenPair:
    """What is said in a pair. Tool calls are part of what a message says, as JSON text.

    Attributes:
        chat: the prompt; a prompt of text is one message of the user.
        chosen: of an answer of several messages each with its role.
        rejected: likewise.
        has_tools: whether the prompt offers tools, which are no message.
        chat_template_kwargs: what the chat template is told about this prompt, JSON text of a mapping.
        columns: what else the data hold of the pair, texts and numbers and lists of them, such as a reference.
    """

    chat: Chat
    chosen: str
    rejected: str
    has_tools: bool = False
    chat_template_kwargs: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[str, str]:
        """The chosen and the rejected answer."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class PairsByPrompt:
    """What is said in pairs, and the rows of the prompts that are looked at, from 0."""

    pairs: Sequence[SpokenPair]
    rows: Mapping[Chat, Sequence[int]]

    @classmethod
    def of(cls, dataset: Dataset, limit: int | None = None, seed: int = 0) -> PairsByPrompt:
        """Look at all prompts, or at `limit` of them that are drawn; in the order of the pairs."""
        pairs = list(spoken_pairs(dataset))
        rows: dict[Chat, list[int]] = {}
        for row, pair in enumerate(pairs):
            rows.setdefault(pair.chat, []).append(row)
        if limit is not None:
            drawn = set(np.random.default_rng(seed).permutation(len(rows))[:limit].tolist())
            rows = {chat: own for number, (chat, own) in enumerate(rows.items()) if number in drawn}
        return cls(pairs, rows)


def spoken_pairs(dataset: Dataset) -> Iterator[SpokenPair]:
    """Yield what is said in every pair of `load_pairs`, in order."""
    others = [name for name in dataset.column_names if not _is_of_pairs(name)]
    for batch in dataset.iter(batch_size=_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            yield SpokenPair(
                chat=_chat(row["prompt"]),
                chosen=_answer(row["chosen"]),
                rejected=_answer(row["rejected"]),
                has_tools=row.get("tools") is not None,
                chat_template_kwargs=row.get("chat_template_kwargs"),
                columns={name: row[name] for name in others if _is_plain(row[name])},
            )


def _is_of_pairs(column: str) -> bool:
    return column in _OF_PAIRS or column.startswith("margin/") or is_quality(column) or says_how_to_train(column)


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(one is None or isinstance(one, (str, int, float)) for one in values)


def _chat(prompt: str | Sequence[Mapping[str, Any]]) -> Chat:
    if isinstance(prompt, str):
        return (("user", prompt),)
    return tuple((message["role"], _said(message)) for message in prompt)


def _answer(completion: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(completion, str):
        return split_reasoning(completion)[1]
    if len(completion) == 1:
        return _said(completion[0])
    return plain_text([{"role": message["role"], "content": _said(message)} for message in completion])


def _said(message: Mapping[str, Any]) -> str:
    text = message_text(message)
    return split_reasoning(text)[1] if message["role"] == "assistant" else text
