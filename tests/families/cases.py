"""Conversations that every family of chat templates is tried with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A pair of conversations, and how it is rendered."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def row(self, thoughts: str) -> dict[str, Any]:
        """Return the pair as a row of data, with thinking under the given key."""
        sides = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        renamed = {
            side: [{thoughts if key == "thoughts" else key: m[key] for key in m} for m in messages]
            for side, messages in sides.items()
        }
        return renamed | ({"tools": self.tools} if self.tools else {})


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _says(content: str, thoughts: str | None = None) -> Message:
    return {"role": "assistant", "content": content} | ({"thoughts": thoughts} if thoughts else {})


def _calls(arguments: Any) -> Message:
    """Return an assistant's call of the tool `rain`."""
    function = {"name": "rain", "arguments": arguments}
    # Mistral wants ids of nine letters.
    return {"role": "assistant", "tool_calls": [{"type": "function", "id": "abcdefghi", "function": function}]}


def _result(content: str) -> Message:
    return {"role": "tool", "name": "rain", "tool_call_id": "abcdefghi", "content": content}


_RAIN = {
    "name": "rain",
    "description": "Rain in mm",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_RIVERS = [_says("The Elbe."), _user("Another one?"), _says("The Rhine.")]
_SUM = [_user("What is 2+2?")]
_BY_FIELD = [_says("4", "2+2 equals 4"), _user("And 3+3?"), _says("6", "3+3 equals 6")]

CASES = {
    "plain": Case([_user("Hello"), _says("Hi."), _user("Name a river.")], [_says("The Elbe.")], [_says("No.")]),
    "turns": Case([_user("Name a river.")], _RIVERS, [_says("No.")]),
    "system": Case([_system("Be brief."), _user("Name a river.")], _RIVERS, [_says("No.")]),
    "tools": Case(
        [_user("Rain in Bonn?"), _calls({"city": "Bonn"}), _result('{"mm": 3}'), _says("3 mm."), _user("In Köln?")],
        [_calls({"city": "Köln"}), _result('{"mm": 5}'), _says("5 mm.")],
        [_says("No.")],
        tools=[{"type": "function", "function": _RAIN}],
    ),
    "think text": Case(
        _SUM,
        [_says("<think>\n2+2 equals 4\n</think>\n\n4")],
        [_says("<think>\nNo.\n</think>\n\n5")],
    ),
    "thoughts": Case(_SUM, [_says("4", "2+2 equals 4")], [_says("5", "No.")]),
    "thoughts of turns": Case(_SUM, _BY_FIELD, [_says("5"), _user("And 3+3?"), _says("7")]),
    "no thinking": Case(
        [_user("Name a river.")], _RIVERS, [_says("No.")], chat_template_kwargs={"enable_thinking": False}
    ),
}
