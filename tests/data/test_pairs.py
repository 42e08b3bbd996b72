"""Rows of every preference format become the same pair; unusable ones have a reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.messages import WrongType, read_messages, without_nulls
from mixdpo.data.pairs import flipped, unknown_margin
from mixdpo.data.prompts import DropPair, split_messages, split_text


def m(role: str, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": role, **({} if content is None else {"content": content}), **more}


U, A, B = m("user", "Q?"), m("assistant", "good"), m("assistant", "bad")
S = m("system", "Be kind.")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ([U], [A], [B], [U]),
        (None, [U, A], [U, B], [U]),
        (None, [S, U, A, U, A], [S, U, A, U, B], [S, U, A, U]),
        ("Q?", [U, A], [U, B], [U]),
        ("Q?", [S, U, A], [S, U, B], [S, U]),
        ("Q?", [A], [B], [U]),
        ("Q?", "good", "bad", [U]),
        ([U], "good", "bad", [U]),
        ([U], [U, A], [U, B], [U]),
        ([S], [S, U, A], [S, U, B], [S, U]),
        ([S, U], [S, U, A], [S, U, B], [S, U]),
        ([], [U, A], [U, B], [U]),
    ],
)
def test_every_shape_of_a_conversation(prompt: Any, chosen: Any, rejected: Any, expected: Any) -> None:
    assert split_messages(prompt, chosen, rejected) == (expected, [A], [B])


def test_other_trainers_formats_are_the_same_pair(jsonl: Any) -> None:
    def sharegpt(message: dict[str, Any]) -> dict[str, str]:
        names = {"user": "human", "assistant": "gpt"}
        return {"from": names.get(message["role"], message["role"]), "value": message["content"]}

    rows = [
        {"prompt": [S, U], "chosen": [A], "rejected": [B]},
        {"messages": [S, U], "chosen": A, "rejected": B},
        {"conversations": [sharegpt(S), sharegpt(U)], "chosen": sharegpt(A), "rejected": sharegpt(B)},
        {"chosen": [sharegpt(S), sharegpt(U), sharegpt(A)], "rejected": [sharegpt(S), sharegpt(U), sharegpt(B)]},
    ]
    loaded = [load_pairs(str(jsonl([row], f"{number}.jsonl"))) for number, row in enumerate(rows)]
    pair = {"prompt": [S, U], "chosen": [A], "rejected": [B], "source_row": 1}
    assert loaded[0][0] == {"pair_id": loaded[0]["pair_id"][0], **pair}
    assert all(pairs.features == loaded[0].features and pairs[0] == loaded[0][0] for pairs in loaded)


TALKS = [{"chosen": f"\n\nHuman: Hi\n\nAssistant: {a}", "rejected": f"\n\nHuman: Hi\n\nAssistant: {b}"}
         for a, b in (("Yes.", "No."), ("I do.", "I don't."))]  # fmt: skip


@pytest.mark.parametrize(
    "more", [{"annotations": [{"who": "a", "score": 1}]}, {"messages": ["x", "y"]}, {"messages": [{"score": 1}]}]
)
def test_lists_that_are_no_messages_leave_a_prompt_in_the_answers(more: dict[str, Any], jsonl: Any) -> None:
    pairs = load_pairs(jsonl([{**row, **more} for row in TALKS]))
    assert pairs["prompt"][:] == ["\n\nHuman: Hi\n\nAssistant:"] * 2


def test_a_conversation_that_holds_the_answer_is_no_prompt(jsonl: Any, refused: Any) -> None:
    for number, row in enumerate((TALKS[0], {"chosen": A, "rejected": B})):
        path = jsonl([{**row, "messages": [U]}, {**row, "messages": [U, A]}], f"{number}.jsonl")
        words = ("row 2", "'messages'", "ends with the assistant's message", "`columns: {prompt: ...}`")
        refused(lambda path=path: load_pairs(path), *words)
    called = m("assistant", tool_calls=[{"function": {"name": "f", "arguments": {"x": 1}}}])
    again = m("assistant", tool_calls=[{"function": {"name": "f", "arguments": {"x": "one"}}}])
    open_ended = [{"messages": [U, call, m("tool", "2")], "chosen": "It is 2.", "rejected": "I see."}
                  for call in (called, again)]  # fmt: skip
    assert without_nulls(load_pairs(jsonl(open_ended))["prompt"][0]) == open_ended[0]["messages"]


def test_an_input_of_its_own_is_taken_where_both_are_text(jsonl: Any) -> None:
    for instruction, given in (("Add.", ["1", "2"]), ([U], "1")):
        row = {"instruction": instruction, "input": given, "chosen": [A], "rejected": [B]}
        prompt = load_pairs(jsonl([row]), columns={"prompt": "instruction"})["prompt"][0]
        assert prompt == ([m("user", "Add.")] if instruction == "Add." else [U])


def test_conversations_that_part_before_the_last_turn() -> None:
    prompt, chosen, rejected = split_messages(None, [U, A, U, A], [U, A, m("user", "R?"), A])
    assert (prompt, chosen, rejected) == ([U], [A, U, A], [A, m("user", "R?"), A])


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ([U], [m("assistant", " \n")], [B], "empty_completion"),
        ([U], [], [B], "empty_completion"),
        ([U], [A], [A], "identical_completions"),
        (None, [U, A], [U, A], "identical_completions"),
        ([m("user", " ")], [A], [B], "empty_prompt"),
        ("", [A], [B], "empty_prompt"),
        ([U], [m("user", "x")], [B], "bad_roles"),
        ([U], [A, U], [B], "bad_roles"),
        ([m("alien", "x")], [A], [B], "bad_roles"),
        ([U], [A, m("tool", "x")], [B], "bad_roles"),
        (None, [m("user", "x"), A], [U, B], "no_shared_prompt"),
        (None, [A], [B], "no_shared_prompt"),
    ],
)
def test_unusable_conversations(prompt: Any, chosen: Any, rejected: Any, reason: str) -> None:
    with pytest.raises(DropPair, match=reason):
        split_messages(prompt, chosen, rejected)


def test_a_text_prompt_that_the_conversations_do_not_hold_is_counted(jsonl: Any) -> None:
    conversations = {"chosen": [U, A], "rejected": [U, B]}
    prompts = [U["content"], f" {U['content']}\n", "something else"]
    pairs, report = read_pairs(DataSettings(path=jsonl([{"prompt": prompt, **conversations} for prompt in prompts])))
    assert pairs["prompt"] == [[U]] * 3
    assert report.sources[0].doubted_rows == {"unread_prompt": ["3"]}


def test_a_prompt_within_few_answers_is_counted(jsonl: Any) -> None:
    plain = {"prompt": "What is two plus two?", "chosen": "4", "rejected": "5"}
    begins = {**plain, "chosen": "What is two plus two? 4"}
    greets = {"prompt": "Hi", "chosen": "Hi, you", "rejected": "What?"}
    pairs, report = read_pairs(DataSettings(path=jsonl([plain, begins, greets, plain])))
    assert pairs["chosen"][1] == begins["chosen"]
    assert report.sources[0].doubted_rows == {"repeated_prompt": ["2"]}


def test_an_answer_of_only_a_tool_call_is_an_answer() -> None:
    call = m("assistant", tool_calls=[{"function": {"name": "f", "arguments": {}}}])
    assert split_messages([U], [call], [B])[1] == [call]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (
            "\n\nHuman: Hi\n\nAssistant: I do.",
            "\n\nHuman: Hi\n\nAssistant: I don't.",
            ("\n\nHuman: Hi\n\nAssistant:", " I do.", " I don't."),
        ),
        ("Name a fruit. Apple", "Name a fruit. Apricot", ("Name a fruit.", " Apple", " Apricot")),
        ("Say yes now", "Say yes never", ("Say yes", " now", " never")),
        ("One two", "One two three", ("One", " two", " two three")),
    ],
)
def test_texts_without_a_prompt(chosen: str, rejected: str, expected: tuple[str, str, str]) -> None:
    assert split_text(None, chosen, rejected) == expected


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        ("p", " ", "b", "empty_completion"),
        (None, "", "", "empty_completion"),
        ("p", "a", "a", "identical_completions"),
        (" \n", "a", "b", "empty_prompt"),
        (None, "abc", "xyz", "no_shared_prompt"),
        (None, "hello", "help", "no_shared_prompt"),
        (None, "Q\n\nAssistant:", "Q\n\nAssistant: yes", "empty_completion"),
    ],
)
def test_unusable_texts(prompt: str | None, chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(DropPair, match=reason):
        split_text(prompt, chosen, rejected)


def test_nulls_are_absent_keys_at_every_depth() -> None:
    assert without_nulls({"a": None, "b": [{"c": None, "d": 0}], "e": ""}) == {"b": [{"d": 0}], "e": ""}


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_messages([{"role": "user", "content": parts}]) == [m("user", "ab")]
    with pytest.raises(WrongType, match="type image in message 1"):
        read_messages([{"role": "user", "content": [{"type": "image", "url": "x"}]}])


def test_the_id_is_the_content(tmp_path: Path, jsonl: Any) -> None:
    rows = [
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"chosen": [{"content": "good", "role": "assistant", "name": None}], "rejected": [B], "prompt": [U]},
        {"prompt": "Q?", "chosen": [U, A], "rejected": [U, B]},
        {"prompt": None, "chosen": [U, A], "rejected": [U, B], "score": 3},
    ]
    ids = {load_pairs(jsonl([row], f"{i}.jsonl"))["pair_id"][0] for i, row in enumerate(rows)}
    Dataset.from_list([{"prompt": [U], "chosen": [{**A, "name": None}], "rejected": [B]}]).to_parquet(
        tmp_path / "p.parquet"
    )
    ids.add(load_pairs(str(tmp_path / "p.parquet"))["pair_id"][0])
    assert len(ids) == 1
    assert len(next(iter(ids))) == 20
    other = load_pairs(jsonl([{"prompt": [U], "chosen": [B], "rejected": [A]}], "other.jsonl"))
    assert other["pair_id"][0] not in ids


def test_tools_and_tool_calls_survive(jsonl: Any) -> None:
    def call(**arguments: Any) -> list[dict[str, Any]]:
        return [
            m("assistant", None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": arguments}}])
        ]

    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}}
    rows = [
        {"prompt": [U], "chosen": call(x=1), "rejected": [B], "tools": [tool]},
        {"prompt": [U], "chosen": call(y="two", z=[1]), "rejected": call(x="one"), "tools": None},
    ]
    pairs = load_pairs(jsonl(rows))
    assert without_nulls(pairs["chosen"][:]) == [call(x=1), call(y="two", z=[1])]
    assert '"name": "f"' in pairs["tools"][0]
    assert pairs["tools"][1] is None
    as_text = load_pairs(
        jsonl(
            [
                {
                    **rows[0],
                    "tools": '[{"type":"function","function":'
                    '{"parameters":{"properties":{"x":{"type":"integer"}}},"name":"f"}}]',
                }
            ],
            "t.jsonl",
        )
    )
    assert as_text["pair_id"][0] == pairs["pair_id"][0]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), "N/A"])
def test_invalid_scores(bad: Any, text_rows: list[dict[str, Any]], jsonl: Any, refused: Any) -> None:
    text_rows[1]["score_rejected"] = bad
    path = jsonl(text_rows)
    refused(lambda: load_pairs(path), path, "row 2", "'score_rejected'", "invalid_scores: drop")
    pairs, report = read_pairs(DataSettings(path=path, invalid_scores="drop"))
    assert len(pairs) == 2
    assert report.dropped == {"invalid_score": 1}
    assert report.sources[0].dropped_rows == {"invalid_score": ["2"]}


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("chosen", 5, ["'chosen'", "a number, not text"]),
        ("prompt", {"a": 1}, ["'prompt'", "an object, not text"]),
        ("rejected", ["x"], ["'rejected'", "a list, not text"]),
        ("score_chosen", [1], ["'score_chosen'", "a list, not a number"]),
        ("score_chosen", True, ["'score_chosen'", "true or false, not a number"]),
    ],
)
def test_a_wrong_type_in_one_row(
    column: str, value: Any, words: list[str], text_rows: list[dict[str, Any]], jsonl: Any, refused: Any
) -> None:
    text_rows[2][column] = value
    path = jsonl(text_rows)
    refused(lambda: load_pairs(path), path, "row 3", *words, ";")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"speaker": "human", "text": "x"}], ["without a role", "speaker, text"]),
        ([{"role": "assistant", "content": 5}], ["a number as content of message 1"]),
        (["text"], ["text as message 1"]),
        (5, ["a number, not a list of messages"]),
    ],
)
def test_wrong_messages_in_one_row(
    value: Any, words: list[str], chat_rows: list[dict[str, Any]], jsonl: Any, refused: Any
) -> None:
    chat_rows[1]["chosen"] = value
    path = jsonl(chat_rows)
    refused(lambda: load_pairs(path), path, "row 2", "'chosen'", *words)


def test_broken_tools(chat_rows: list[dict[str, Any]], jsonl: Any, refused: Any) -> None:
    chat_rows[0]["tools"] = "[{"
    refused(lambda: load_pairs(jsonl(chat_rows)), "row 1", "'tools'", "not JSON")


@pytest.mark.parametrize(("how", "kept"), [("keep", 3), ("flip", 3), ("drop", 2)])
def test_contradictions(how: Any, kept: int, text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    pairs, report = read_pairs(DataSettings(path=jsonl(text_rows), contradictions=how))
    assert len(pairs) == kept
    assert (report.sources[0].contradicted, report.sources[0].ties) == (1, 1)
    assert report.dropped == ({"contradiction": 1} if how == "drop" else {})
    if how != "drop":
        last = pairs[2]
        assert (last["chosen"], last["score_chosen"]) == (("Rex.", 2.0) if how == "keep" else ("Felix.", 3.0))


def test_flipping_negates_the_margin_and_asks_what_it_does_to_those_of_metrics() -> None:
    pair = {"chosen": "a", "rejected": "b", "margin": -1.0, "margin/rm": -2.0}
    assert flipped(pair, lambda metric, margin: {"rm": -margin}[metric]) == {
        "chosen": "b", "rejected": "a", "margin": 1.0, "margin/rm": 2.0,
    }  # fmt: skip
    without = flipped(pair, unknown_margin)
    assert (without["margin"], math.isnan(without["margin/rm"])) == (1.0, True)


def test_margin_columns(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    rows = [
        {**{k: row[k] for k in ("prompt", "chosen", "rejected")}, "margin": i - 1, "margin/rm": None if i else 0.5}
        for i, row in enumerate(text_rows)
    ]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert pairs["margin"][:] == [-1.0, 0.0, 1.0]
    assert pairs["margin/rm"][0] == 0.5
    assert math.isnan(pairs["margin/rm"][1])
    assert (report.sources[0].contradicted, report.sources[0].ties) == (1, 1)


def test_scores_of_a_list_of_answers(jsonl: Any, refused: Any, text_rows: list[dict[str, Any]]) -> None:
    rows = [{**text_rows[0], "all_scores": [0.1, 0.7, 0.4]}, {**text_rows[1], "all_scores": [2, None]}]
    path = jsonl([{k: v for k, v in row.items() if not k.startswith("score")} for row in rows])
    columns = {"score_chosen": "max(all_scores)", "score_rejected": "min(all_scores)"}
    pairs = load_pairs(path, columns=columns, invalid_scores="drop")
    assert (pairs["score_chosen"][:], pairs["score_rejected"][:]) == ([0.7], [0.1])
    refused(lambda: load_pairs(path, columns=columns), "row 2", "max(all_scores)", "missing")
    misspelt = {"score_chosen": "max(al_scores)", "score_rejected": "min(al_scores)"}
    refused(
        lambda: load_pairs(path, columns=misspelt),
        "'max(al_scores)', 'min(al_scores)'",
        "score_chosen: max(all_scores)",
    )
    not_lists = {"score_chosen": "max(prompt)", "score_rejected": "min(prompt)"}
    refused(lambda: load_pairs(path, columns=not_lists), "row 1", "not a list of scores")
