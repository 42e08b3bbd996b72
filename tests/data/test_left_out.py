"""What a template leaves out is found, whatever form it writes the rest in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixdpo.data.left_out import left_out

QUESTION = {"role": "user", "content": "What is the rain in Bonn?"}


def call(arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "rain", "arguments": arguments}}],
    }


def names(messages: list[dict[str, Any]], text: str) -> list[str]:
    return sorted(left_out(messages, 1, text))


def test_trimmed_and_escaped_text_is_there() -> None:
    messages = [QUESTION, {"role": "assistant", "content": '\n It is "wet".\n'}]
    assert names(messages, 'What is the rain in Bonn? It is "wet".') == []
    assert names(messages, "What is the rain in Bonn? " + json.dumps({"content": 'It is "wet".'})) == []
    assert names(messages, "What is the rain in Köln?") == ["lost_content", "lost_content"]


def test_escaped_as_ascii_too() -> None:
    messages = [{"role": "tool", "content": "Köln"}]
    assert names(messages, json.dumps("Köln")) == names(messages, "Köln") == []


@pytest.mark.parametrize("thoughts", [{"reasoning_content": "It rained."}, {"thinking": "It rained."}])
def test_thoughts_of_the_answer_and_of_earlier_turns(thoughts: dict[str, str]) -> None:
    answer = {"role": "assistant", "content": "3 mm", **thoughts}
    text = "What is the rain in Bonn? 3 mm Sure? 4 mm"
    assert names([QUESTION, answer], text) == ["lost_thinking"]
    later = [QUESTION, answer, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "4 mm"}]
    assert names(later, text) == ["earlier_thinking"]
    assert names([QUESTION, answer], text + "It rained.") == []


def test_think_text_is_looked_for_in_parts() -> None:
    messages = [QUESTION, {"role": "assistant", "content": "<think>\nIt rained.\n</think>\n\n3 mm"}]
    assert names(messages, "What is the rain in Bonn? [It rained.] 3 mm") == []
    assert names(messages, "What is the rain in Bonn? 3 mm") == ["lost_thinking"]


@pytest.mark.parametrize("form", [dict, json.dumps])
def test_every_leaf_of_a_calls_arguments_counts(form: Any) -> None:
    arguments = form({"where": {"city": "Bonn", "days": [1, 12]}, "exact": True, "unit": None})
    text = "What is the rain in Bonn? rain where city Bonn days 1 12 exact unit"
    assert names([QUESTION, call(arguments)], text) == []
    assert names([QUESTION, call(arguments)], text.replace("12", "13")) == ["lost_tool_calls"]
    assert names([QUESTION, call(arguments)], text.replace("rain where", "where").replace("the rain", "the")) == [
        "lost_content",
        "lost_tool_calls",
    ]


def test_arguments_that_are_no_json_are_text() -> None:
    assert names([QUESTION, call("Bonn, please")], "What is the rain in Bonn? rain Bonn, please") == []
