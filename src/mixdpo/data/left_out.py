"""What a chat template leaves out of the messages it is given, found by looking for their text in what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mixdpo.common.json_text import parse_json
from mixdpo.data.messages import THOUGHTS, Message

_THINK_TAGS: Final = re.compile(r"<think>|</think>")


def left_out(messages: Sequence[Message], answer_from: int, text: str) -> Iterator[str]:
    """Yield the name of the count, of `token_report.COUNTS`, for everything that a rendered conversation lacks.

    White space at the borders may be cut, and text may be escaped as in JSON. Templates leave out the thoughts of
    earlier turns on purpose, so these have a name of their own.

    Args:
        messages: the conversation.
        answer_from: the number of messages before the answer.
        text: what the template makes of the conversation.
    """
    last_answer = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    for number, message in enumerate(messages):
        thoughts, words = _thoughts_and_words(message)
        if not _holds(text, words):
            yield "lost_content"
        if not all(_holds(text, thought) for thought in thoughts):
            yield "lost_thinking" if number == last_answer >= answer_from else "earlier_thinking"
        for call in message.get("tool_calls") or ():
            if not all(_holds(text, leaf) for leaf in _leaves(call.get("function", call))):
                yield "lost_tool_calls"


def _thoughts_and_words(message: Message) -> tuple[list[str], str]:
    thoughts = [str(message[key]) for key in THOUGHTS if message.get(key)]
    words = str(message.get("content") or "")
    if message["role"] == "assistant" and "</think>" in words:
        thought, _, words = words.rpartition("</think>")
        thoughts += _THINK_TAGS.split(thought)
    return thoughts, words


def _holds(text: str, part: str) -> bool:
    part = part.strip()
    if not part or part in text:
        return True
    escaped = (json.dumps(part, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
    return any(form in text for form in escaped)


def _leaves(call: Mapping[str, Any]) -> Iterator[str]:
    """Yield a call's name and the texts and numbers of its arguments."""
    yield str(call.get("name") or "")
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except json.JSONDecodeError:
            yield str(arguments)
            return
    yield from _texts(arguments)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
    elif value is not None and not isinstance(value, bool):
        yield json.dumps(value)
