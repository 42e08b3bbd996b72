"""Thoughts, tool calls and tool results in the fields and parts that other projects keep them in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.messages import WrongType, answers, is_blank, read_messages, says

U = {"role": "user", "content": "2+2?"}
A, B = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "add", "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tool_calls": [call({"a": 2}, id="c1")]}, [call({"a": 2}, id="c1")]),
        ({"tool_calls": [{"name": "add", "arguments": '{"a": 2}'}]}, [call('{"a": 2}')]),
        ({"tool_calls": [{"id": "c1", "name": "add", "parameters": {"a": 2}}]}, [call({"a": 2}, id="c1")]),
        ({"tool_calls": [call(None)]}, [call({})]),
        ({"tool_calls": [call("")]}, [call({})]),
        ({"tool_calls": json.dumps([call({"a": 2})])}, [call({"a": 2})]),
        ({"function_call": {"name": "add", "arguments": '{"a": 2}'}}, [call('{"a": 2}')]),
        ({"content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2}}]}, [call({"a": 2}, id="c1")]),
    ],
)
def test_tool_calls_have_one_form(given: dict[str, Any], expected: Any) -> None:
    (message,) = read_messages([{"role": "assistant", **given}])
    assert message["tool_calls"] == expected
    assert "function_call" not in message
    assert answers(message)


def test_no_tool_calls_are_none() -> None:
    assert read_messages([{**A, "tool_calls": None, "function_call": None}]) == [A]
    assert read_messages([{**A, "tool_calls": ""}]) == [A]
    for broken in ("add(2)", 5, ["add"]):
        with pytest.raises(WrongType, match="message 1"):
            read_messages([{**A, "tool_calls": broken}])


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ({"reasoning_content": "Hm.", "content": "4"}, "reasoning_content", "Hm."),
        ({"thinking": "Hm.", "content": "4"}, "thinking", "Hm."),
        ({"reasoning": "Hm.", "content": "4"}, "reasoning", "Hm."),
        ({"reasoning": {"summary": [{"text": "Hm."}, {"text": "So."}]}, "content": "4"}, "reasoning", "Hm.\nSo."),
        (
            {"content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "text", "text": "4"}]},
            "reasoning_content",
            "Hm.",
        ),
        (
            {"content": [{"type": "reasoning", "text": "Hm."}, {"type": "output_text", "text": "4"}]},
            "reasoning_content",
            "Hm.",
        ),
    ],
)
def test_thoughts_are_told_from_the_answer(given: dict[str, Any], key: str, expected: str) -> None:
    (message,) = read_messages([{"role": "assistant", **given}])
    assert (message[key], message["content"]) == (expected, "4")
    assert says(message) != says(A)
    alone = {**message, "content": ""}
    assert not is_blank(alone)
    assert not answers(alone)


def test_an_answer_of_thoughts_alone_is_counted(jsonl: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": [U], "chosen": [A], "rejected": [{**B, "content": "", "reasoning_content": "Hm."}]},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"prompt": [U], "chosen": [A], "rejected": [{**B, "content": " "}]},
        *(
            {"prompt": [U], "chosen": [A], "rejected": [{**B, "content": text, "reasoning_content": None}]}
            for text in ("<think>\nHm", "<think>\nHm.\n</think>\n", "Hm.</think>", "[THINK]Hm.[/THINK]")
        ),
    ]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert len(pairs) == 1
    assert report.sources[0].dropped == {"thoughts_only": 5, "empty_completion": 1}


@pytest.mark.parametrize("text", ["<think>\nHm", " <think>\nHm.\n</think>\n", "Hm.</think> "])
def test_a_text_of_thoughts_alone_is_counted(text: str, jsonl: Any) -> None:
    rows = [{"prompt": "2+2?", "chosen": f"{text}</think> 4", "rejected": bad} for bad in ("5", text)]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert pairs["rejected"] == ["5"]
    assert report.sources[0].dropped == {"thoughts_only": 1}


def test_a_refusal_is_what_the_answer_says() -> None:
    said = {"role": "assistant", "content": "I cannot"}
    assert read_messages([{"role": "assistant", "content": None, "refusal": "I cannot"}]) == [said]
    assert read_messages([{"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]}]) == [said]
    assert read_messages([{**A, "refusal": None}]) == [A]


def test_calls_printed_by_python_are_calls() -> None:
    printed = str({"name": "add", "arguments": {"a": 2, "b": None}})
    (message,) = read_messages([{"from": "function_call", "value": printed}])
    assert message["tool_calls"][0]["function"]["name"] == "add"
    assert read_messages([{**A, "tool_calls": f"[{printed}]"}])[0]["tool_calls"] == message["tool_calls"]


def test_calls_are_the_same_in_either_form_of_their_arguments() -> None:
    first, second, third = ({**A, "tool_calls": [call(arguments)]} for arguments in ({"a": 2}, '{"a":2}', '{"a":3}'))
    assert says(first) == says(second) != says(third)


@pytest.mark.parametrize(
    "result",
    [
        {"role": "tool", "content": "4"},
        {"role": "function", "name": "add", "content": "4"},
        {"role": "observation", "content": "4"},
        {"from": "observation", "value": "4"},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "4"}]},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}]},
    ],
)
def test_results_of_tools_are_the_tools(result: dict[str, Any]) -> None:
    (message,) = read_messages([result])
    assert (message["role"], message["content"]) == ("tool", "4")


def test_fields_of_some_rows_are_kept_through_a_file(jsonl: Any) -> None:
    thinking = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "4"}]
    rows: list[dict[str, Any]] = [
        {"prompt": [U], "chosen": [{"role": "assistant", "content": thinking}], "rejected": [B]},
        {
            "prompt": [U],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "4"}]}],
            "rejected": [B],
        },
    ]
    pairs = load_pairs(jsonl(rows))
    assert pairs["chosen"][:] == [[{**A, "reasoning_content": "Hm."}], [A]]
    written = [{**B, "content": "", "function_call": json.dumps({"name": "add", "arguments": "{}"})}]
    called = load_pairs(jsonl([{"prompt": [U], "chosen": written, "rejected": [B]}], "calls.jsonl"))
    assert called["chosen"][0][0]["tool_calls"] == [call("{}")]


def test_settings_of_the_template_per_row(jsonl: Any, refused: Any) -> None:
    row = {"prompt": [U], "chosen": [A], "rejected": [B]}
    values: list[Any] = [{"enable_thinking": False}, {"reasoning_effort": "low"}, None, {}]
    pairs, report = read_pairs(DataSettings(path=jsonl([{**row, "chat_template_kwargs": one} for one in values])))
    expected = ['{"enable_thinking":false}', '{"reasoning_effort":"low"}', None, None]
    assert pairs["chat_template_kwargs"][:] == expected
    assert len(set(pairs["pair_id"])) == 1, "they are no part of a pair"
    assert report.sources[0].unread_columns == ()
    texts = [json.dumps(value) for value in values[:2]]
    written = load_pairs(jsonl([{**row, "chat_template_kwargs": text} for text in [*texts, "", None]], "text.jsonl"))
    assert written["chat_template_kwargs"][:] == expected
    mapped = load_pairs(jsonl([{**row, "kw": values[0]}], "kw.jsonl"), columns={"chat_template_kwargs": "kw"})
    assert mapped["chat_template_kwargs"][:] == expected[:1]
    for wrong, words in (("[1]", "a list"), ("no", "no JSON"), ('{"tools": 1}', "cannot set 'tools'")):
        path = jsonl([{**row, "chat_template_kwargs": text} for text in (texts[0], wrong)], "wrong.jsonl")
        refused(lambda path=path: load_pairs(path), "row 2", "chat_template_kwargs", words)
    text_row = {"prompt": "2+2?", "chosen": "4", "rejected": "5", "chat_template_kwargs": texts[0]}
    plain, report = read_pairs(DataSettings(path=jsonl([text_row], "plain.jsonl")))
    assert "chat_template_kwargs" not in plain.column_names
    assert report.sources[0].unread_columns == ("chat_template_kwargs",)
