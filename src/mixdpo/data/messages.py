"""Reading messages and tools as they come out of Arrow, and telling whether two are the same.

Arrow gives every struct all keys of its column and fills the absent ones with null, and a JSON file may do
likewise; so a null means that the key is absent, at every depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from mixdpo.common.json_text import parse_json
from mixdpo.common.text_limits import too_long
from mixdpo.data.printed import parse_text
from mixdpo.data.reasoning import is_only_reasoning

Message = dict[str, Any]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})

_SHAREGPT_KEYS: Final = {"from": "role", "value": "content"}
_OTHER_ROLES: Final = {
    **dict.fromkeys(("human", "prompter", "customer", "user_query"), "user"),
    **dict.fromkeys(("gpt", "model", "bot", "chatbot", "chatgpt", "ai", "claude", "llm"), "assistant"),
    **dict.fromkeys(
        ("function", "observation", "tool_response", "function_response", "tool_result", "ipython"), "tool"
    ),
    "system_prompt": "system",
}
"""What other formats call the roles, in lower case."""

CALL_ROLES: Final = frozenset({"function_call", "tool_call"})
"""Roles of a message whose text is a tool call in JSON (LLaMA-Factory, ms-swift)."""

THOUGHTS: Final = ("reasoning_content", "thinking", "reasoning")
"""Keys under which a message keeps the thoughts before its answer."""

CALLS: Final = ("tool_calls", "function_call")
"""Keys under which a message keeps its tool calls; the second is OpenAI's old one for a single call."""

_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_THOUGHT_PARTS: Final = ("thinking", "reasoning")


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


def check_length(value: str | Sequence[Message]) -> None:
    """Raise `WrongType` if a text, or one within messages, has more characters than one may have."""
    if (fault := too_long(value)) is not None:
        raise WrongType(fault)


def read_system(value: Any) -> list[Message]:
    """Return the system message in a column of its own, if it says anything.

    Raises:
        WrongType: it is not text.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, str):
        raise WrongType(f"is {kind_of(value)}, not the text of a system message")
    return [{"role": "system", "content": value}]


def read_history(value: Any) -> list[Message]:
    """Return the turns before the prompt, kept as pairs of texts (what the user and the assistant said) or messages.

    Raises:
        WrongType: it is neither.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except json.JSONDecodeError:
            raise WrongType("is text, not a list of turns") from None
    if not value:
        return []
    if not isinstance(value, list):
        raise WrongType(f"is {kind_of(value)}, not a list of turns")
    if all(isinstance(item, Mapping) for item in value):
        return read_messages(value)
    turns: list[Message] = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(text, str) for text in item):
            raise WrongType(f"has {kind_of(item)} as turn {number}, not two texts (the user's, the assistant's)")
        turns += [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
    return turns


def read_template_kwargs(value: Any) -> str | None:
    """Return a row's settings of the chat template as the JSON text of a mapping, None if it has none.

    Raises:
        WrongType: it is neither a mapping nor the JSON text of one.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = parse_json(value)
        except json.JSONDecodeError as error:
            raise WrongType(f"is no JSON ({error.msg})") from None
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise WrongType(f"is {kind_of(value)}, not a mapping such as {{enable_thinking: false}}")
    return canonical(without_nulls(value)) if without_nulls(value) else None


def read_tools(value: Any) -> str | None:
    """Return a row's tools as the JSON text of a list, None if it has none.

    Raises:
        WrongType: it is neither a list of tools nor the JSON text of one.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = parse_json(value)
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


def says(message: Message) -> tuple[str, ...]:
    """Return what tells two messages apart: role, words and tool calls, no ids, times or other keys."""
    thoughts = "".join(str(message[key]) for key in THOUGHTS if message.get(key))
    calls = message.get("tool_calls") or ()
    called = [_said_call(call.get("function", call)) if isinstance(call, Mapping) else call for call in calls]
    return message["role"], message.get("content") or "", thoughts, canonical(called) if called else ""


def _said_call(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's name and arguments, as an object where they are kept as its JSON text."""
    arguments = function.get("arguments")
    with suppress(json.JSONDecodeError):
        arguments = parse_json(arguments) if isinstance(arguments, str) else arguments
    return {**function, "arguments": arguments}


def is_blank(message: Message) -> bool:
    """Whether a message says nothing: only white space, no thoughts and no tool call."""
    said = (str(message.get(key) or "").strip() for key in ("content", *THOUGHTS))
    return not message.get("tool_calls") and not any(said)


def answers(message: Message) -> bool:
    """Whether a message says something beside its thoughts, also where they stand in its content."""
    return bool(message.get("tool_calls")) or not is_only_reasoning(message.get("content") or "")


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
        return parse_json(item)
    except json.JSONDecodeError as error:
        raise WrongType(f"holds the tool {item!r:.40}, which is not JSON ({error.msg})") from error


def _read_message(item: Any, number: int) -> Message:
    if not isinstance(item, Mapping):
        raise WrongType(f"has {kind_of(item)} as message {number}, not an object with role and content")
    message = with_role(without_nulls(item))
    role, content = message.get("role"), message.get("content")
    if role is not None and not isinstance(role, str):
        raise WrongType(f"has {kind_of(role)} as role of message {number}, not text")
    if role is None:
        found = ", ".join(map(str, message)) or "no keys"
        raise WrongType(f"has a message {number} without a role (its keys: {found})")
    if role not in ROLES:
        if role.strip().lower() in CALL_ROLES:
            return _read_call(message)
        message["role"] = _role(role)
    if not content and isinstance(message.get("refusal"), str):  # OpenAI's of an answer that refuses
        message["content"] = message.pop("refusal")
    if isinstance(content, list):
        message |= _from_parts(content, message, number)
    elif content is not None and not isinstance(content, str):
        raise WrongType(f"has {kind_of(content)} as content of message {number}, not text")
    thoughts = message.get("reasoning")
    if thoughts is not None and not isinstance(thoughts, str):
        message = {**message, "reasoning": _thought_text(thoughts)}
    return _read_calls(message, number) if any(key in message for key in CALLS) else message


def _role(name: str) -> str:
    plain = name.strip().lower()
    return plain if plain in ROLES else _OTHER_ROLES.get(plain, name)


def _read_call(message: Message) -> Message:
    """Return the assistant's message of a tool call that is kept as JSON text; text that is no call stays text."""
    content = message.get("content")
    try:
        calls = parse_text(content) if isinstance(content, str) else content
    except ValueError:
        calls = None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return {**message, "role": "assistant"}
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {**rest, "role": "assistant", "tool_calls": [_as_call(call) for call in calls]}


def with_role(message: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a message that follows ShareGPT the names that all others have."""
    is_sharegpt = "from" in message and "role" not in message
    return {_SHAREGPT_KEYS.get(key, key) if is_sharegpt else key: value for key, value in message.items()}


def _from_parts(parts: list[Any], message: Message, number: int) -> Message:
    """Return the keys of a message that its content in parts makes: text, thoughts, tool calls or a tool's result."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results = 0
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else kind_of(part)
        if isinstance(part, str):
            texts.append(part)
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif kind in _THOUGHT_PARTS:
            thoughts.append(_thought_text(part))
        elif kind == "redacted_thinking":
            continue  # nobody can read it
        elif kind == "tool_use" and isinstance(part.get("name"), str):
            calls.append({"id": part.get("id"), "name": part["name"], "arguments": part.get("input")})
        elif kind == "tool_result" and len(parts) == 1:
            results += 1
            inner = part.get("content") or ""
            texts += [inner] if isinstance(inner, str) else [str(_from_parts(inner, {}, number)["content"])]
        else:
            raise WrongType(f"has a part of type {kind} in message {number}; only text can be trained on")
    made: Message = {"content": "".join(texts)}
    if thoughts and not any(message.get(key) for key in THOUGHTS):
        made["reasoning_content"] = "\n".join(thoughts)
    if calls:
        made["tool_calls"] = [*message.get("tool_calls", ()), *map(_as_call, calls)]
    if results:
        made["role"] = "tool"
    return made


def _thought_text(value: Any) -> str:
    """Return the words of thoughts, which are kept as text, or as an object or a list of objects with a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        named = (value.get(key) for key in ("thinking", "text", "content", "summary"))
        return _thought_text(next((found for found in named if found), ""))
    return "\n".join(map(_thought_text, value)) if isinstance(value, list) else ""


def _read_calls(message: Message, number: int) -> Message:
    """Return a message with its tool calls as OpenAI has them: a list of {type, function: {name, arguments}}."""
    if not any(message.get(key) for key in CALLS):
        # An empty list stays: it is a part of the ids of pairs.
        return {key: value for key, value in message.items() if key not in CALLS or value == []}
    rest = {key: value for key, value in message.items() if key not in CALLS}
    calls = message.get("tool_calls") or message["function_call"]
    if isinstance(calls, str):
        try:
            calls = parse_text(calls)
        except ValueError as error:
            raise WrongType(f"has tool calls in message {number} as text that cannot be read ({error})") from None
    calls = [calls] if isinstance(calls, Mapping) else calls or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise WrongType(f"has {kind_of(calls)} as tool calls of message {number}, not a list of objects")
    return {**rest, "tool_calls": [_as_call(call) for call in calls]} if calls else rest


def _as_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call under `function`, with arguments also where it has none."""
    own = ("name", "arguments", "parameters")
    function = call.get("function") if isinstance(call.get("function"), Mapping) else None
    if function is None and "name" not in call:
        return dict(call)
    if function is None:
        function = {key: call[key] for key in own if key in call}
        call = {"type": "function", **{key: value for key, value in call.items() if key not in own}}
    arguments = function.get("arguments", function.get("parameters"))
    named = {key: value for key, value in function.items() if key not in ("arguments", "parameters")}
    return without_nulls({**call, "function": {**named, "arguments": {} if arguments in (None, "") else arguments}})
