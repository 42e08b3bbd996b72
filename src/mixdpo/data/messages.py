"""Reading messages and tools as they come out of Arrow, and telling whether two are the same.

Arrow gives every struct all keys of its column and fills the absent ones with null, and a JSON file may do
likewise; so a null means that the key is absent, at every depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

Message = dict[str, Any]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_SHAREGPT_KEYS: Final = {"from": "role", "value": "content"}
_OTHER_ROLES: Final = {"human": "user", "gpt": "assistant", "observation": "tool"}


class WrongType(Exception):
    """A value is not what its column must hold; the message completes "the value ..."."""


def without_nulls(value: Any) -> Any:
    """Return `value` without the null-valued keys of its mappings, at every depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def read_messages(value: Sequence[Any]) -> list[Message]:
    """Return messages with at least the key `role`, and `content` as text if they have one.

    ShareGPT's `{from, value}` become `{role, content}`, and its roles those that chat templates know.

    Raises:
        WrongType: an element is not a message of text.
    """
    return [_read_message(item, number) for number, item in enumerate(value, start=1)]


def read_tools(value: Any) -> str | None:
    """Return a row's tools as the JSON text of a list, None if it has none.

    Raises:
        WrongType: it is neither a list of tools nor the JSON text of one.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise WrongType(f"is not JSON ({error.msg})") from error
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise WrongType(f"is {kind_of(value)}, not a list of tools")
    tools = [_read_tool(item) for item in value]
    return json.dumps(without_nulls(tools), ensure_ascii=False)


def canonical(value: Any) -> str:
    """Return a text that is the same for the same content, whatever the order of its keys."""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def is_blank(message: Message) -> bool:
    """Whether a message says nothing: only white space, and no tool call."""
    return not message.get("content", "").strip() and not message.get("tool_calls")


def message_text(message: Mapping[str, Any]) -> str:
    """Return what a message says: its content, and below it its tool calls as JSON text."""
    calls = message.get("tool_calls")
    parts = (message.get("content"), canonical(calls) if calls else None)
    return "\n\n".join(part for part in parts if part)


def kind_of(value: Any) -> str:
    """Name the type of a value in the words of a data file."""
    if value is None:
        return "null"
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def _read_tool(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    try:
        return json.loads(item)
    except json.JSONDecodeError as error:
        raise WrongType(f"holds the tool {item!r:.40}, which is not JSON ({error.msg})") from error


def _read_message(item: Any, number: int) -> Message:
    if not isinstance(item, Mapping):
        raise WrongType(f"has {kind_of(item)} as message {number}, not an object with role and content")
    message = with_role(without_nulls(item))
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        found = ", ".join(map(str, message)) or "no keys"
        raise WrongType(f"has a message {number} without a role (its keys: {found})")
    message["role"] = _OTHER_ROLES.get(role, role)
    if isinstance(content, list):
        message["content"] = "".join(_part_text(part, number) for part in content)
    elif content is not None and not isinstance(content, str):
        raise WrongType(f"has {kind_of(content)} as content of message {number}, not text")
    return message


def with_role(message: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a message that follows ShareGPT the names that all others have."""
    is_sharegpt = "from" in message and "role" not in message
    return {_SHAREGPT_KEYS.get(key, key) if is_sharegpt else key: value for key, value in message.items()}


def _part_text(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "unknown") if isinstance(part, Mapping) else kind_of(part)
    raise WrongType(f"has a part of type {kind} in message {number}; only text can be trained on")
