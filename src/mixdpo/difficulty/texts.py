"""The text of answers, for metrics that read no model's chat template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixdpo.data.messages import message_text
from mixdpo.data.reasoning import split_reasoning

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 10_000


def answer_text(completion: Any) -> str:
    """Return a text completion, and of messages what the assistant says, an empty line between its turns; each without
    the reasoning before it."""
    if isinstance(completion, str):
        return split_reasoning(completion)[1]
    turns = (message_text(message) for message in completion if message["role"] == "assistant")
    return "\n\n".join(split_reasoning(turn)[1] for turn in turns)


def answer_texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield the texts of chosen and rejected of every pair, in order."""
    for batch in dataset.select_columns(["chosen", "rejected"]).iter(batch_size=_ROWS_AT_ONCE):
        for chosen, rejected in zip(batch["chosen"], batch["rejected"], strict=True):
            yield answer_text(chosen), answer_text(rejected)
