"""The layouts of other projects become pairs by stated rules, and what is guessed or lost is said."""

from __future__ import annotations

import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Image
from hypothesis import given
from hypothesis import strategies as st

from mixdpo import load_pairs
from mixdpo.data.data_settings import PAIR_RULES, DataSettings
from mixdpo.data.layouts import LAYOUTS
from mixdpo.data.load import read_pairs
from mixdpo.data.messages import without_nulls
from mixdpo.data.printed import parse_text
from mixdpo.data.scored_answers import choose_pairs


def m(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def talk(answer: str, question: str = "Q?") -> list[dict[str, Any]]:
    return [m("user", question), m("assistant", answer)]


U, A, B, S = m("user", "Q?"), m("assistant", "good"), m("assistant", "bad"), m("system", "Be kind.")
PAIR = {"prompt": [U], "chosen": [A], "rejected": [B]}


def sides(pairs: Dataset, row: int = 0) -> dict[str, Any]:
    return {name: without_nulls(pairs[row][name]) for name in ("prompt", "chosen", "rejected")}


SAME_PAIR: dict[str, dict[str, Any]] = {
    "OpenAI": {"input": {"messages": [U], "tools": []}, "preferred_output": [A], "non_preferred_output": [B]},
    "OpenAI, texts": {"input": {"messages": [U]}, "preferred_output": "good", "non_preferred_output": "bad"},
    "ms-swift": {"messages": [U, A], "rejected_response": "bad"},
    "ms-swift, messages": {"messages": [U, A], "rejected_messages": [U, B]},
    "arena": {"conversation_a": [U, B], "conversation_b": [U, A], "winner": "model_b"},
    "ids and times": {
        "chosen": [{**U, "id": 1}, {**A, "id": 2, "timestamp": "x"}],
        "rejected": [{**U, "id": 8}, {**B, "id": 9}],
    },
    "roles in other words": {"chosen": [m("Human", "Q?"), m("model", "good")], "rejected": [m("prompter", "Q?"), B]},
    "messages as JSON text": {"chosen": json.dumps([U, A]), "rejected": json.dumps([U, B])},
    "messages as Python text": {"prompt": "Q?", "chosen": repr([U, A]), "rejected": repr([U, B])},
    "an array of numpy": {"chosen": f"[{U}\n {A}]", "rejected": f"[{U}\n {B}]"},
    "white space in the prompt alone": {"prompt": [m("user", "Q? \n")], "chosen": [U, A], "rejected": [U, B]},
}


@pytest.mark.parametrize("name", SAME_PAIR)
def test_other_layouts_are_the_same_pair(name: str, jsonl: Any) -> None:
    pair = sides(load_pairs(jsonl([SAME_PAIR[name]])))
    said = {side: [(x["role"], x["content"].strip()) for x in messages] for side, messages in pair.items()}
    assert said == {"prompt": [("user", "Q?")], "chosen": [("assistant", "good")], "rejected": [("assistant", "bad")]}


WITH_SYSTEM: dict[str, dict[str, Any]] = {
    "in the prompt alone": {"prompt": [S, U], "chosen": [U, A], "rejected": [U, B]},
    "in the answers alone": {"prompt": [U], "chosen": [S, U, A], "rejected": [S, U, B]},
    "LLaMA-Factory's sharegpt": {
        "system": "Be kind.",
        "conversations": [{"from": "human", "value": "Q?"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    "LLaMA-Factory's alpaca": {
        "instruction": "Q?",
        "input": "",
        "system": "Be kind.",
        "chosen": "good",
        "rejected": "bad",
    },
    "ms-swift": {"system": "Be kind.", "query": "Q?", "response": "good", "rejected_response": "bad"},
}


@pytest.mark.parametrize("name", WITH_SYSTEM)
def test_a_system_message_is_part_of_the_prompt(name: str, jsonl: Any) -> None:
    assert sides(load_pairs(jsonl([WITH_SYSTEM[name]]))) == {"prompt": [S, U], "chosen": [A], "rejected": [B]}


def test_turns_before_the_prompt_in_a_column_of_their_own(jsonl: Any, refused: Any) -> None:
    row = {"instruction": "Another?", "history": [["A river?", "Elbe"]], "chosen": "Oder", "rejected": "no"}
    pair = sides(load_pairs(jsonl([row, {**row, "history": None}])))
    assert pair["prompt"] == [*talk("Elbe", "A river?"), m("user", "Another?")]
    mapped = [{"prompt": "Another?", "past": json.dumps([["A river?", "Elbe"]]), "chosen": "Oder", "rejected": "no"}]
    assert sides(load_pairs(jsonl(mapped), columns={"history": "past"})) == pair
    wrong = jsonl([row, {**row, "history": [["alone"]]}])
    refused(lambda: load_pairs(wrong), wrong, "row 2", "'history'", "two texts")


def test_tool_calls_kept_as_text_of_a_role(jsonl: Any) -> None:
    call, result = '{"name": "rain", "arguments": {"town": 1}}', '{"mm": 3}'
    said = [("human", "Rain?"), ("function_call", call), ("observation", result)]
    row = {
        "conversations": [{"from": role, "value": text} for role, text in said],
        "chosen": {"from": "gpt", "value": "3 mm"},
        "rejected": {"from": "function_call", "value": "not JSON"},
    }
    pair = sides(load_pairs(jsonl([row])))
    called = {"type": "function", "function": {"name": "rain", "arguments": {"town": 1}}}
    assert pair["prompt"][1:] == [{"role": "assistant", "tool_calls": [called]}, m("tool", result)]
    assert pair["rejected"] == [m("assistant", "not JSON")]


def test_answers_that_differ_in_ids_alone_are_the_same(jsonl: Any) -> None:
    rows = [PAIR, {**PAIR, "rejected": [{**A, "id": 7}]}]
    _, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert report.dropped == {"identical_completions": 1}


def test_unknown_roles_and_wrong_ends_are_named(jsonl: Any, refused: Any) -> None:
    rows = [PAIR, {**PAIR, "prompt": [m("alien", "x")]}, {**PAIR, "chosen": [A, U]}]
    _, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert report.sources[0].dropped_details["bad_roles"] == {
        "unknown role 'alien' in 'prompt'": 1,
        "chosen ends with the role 'user' in 'chosen'": 1,
    }
    conversations = {"conversations": [m("alien", "x")], "chosen": A, "rejected": B}
    path = jsonl([conversations])
    refused(lambda: load_pairs(path), path, "row 1", "unknown role 'alien' in 'conversations'")


ULTRAFEEDBACK = {
    "instruction": "A river?",
    "completions": [{"response": f"r{i}", "overall_score": s} for i, s in enumerate([7.0, 9.0, 9.0, 3.0, None])],
}


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({"system": "You are brief."}, True),
        ({"context": "The Elbe is a river."}, True),
        ({"Prompt": "Another prompt?"}, True),
        ({"history": [["Hi", "Hello"]]}, True),
        ({"context": "geography"}, False),
        ({"system": "linux", "query": 17}, False),
        ({"question": "Which river?"}, False),
        ({"question": "  River? "}, False),
    ],
)
def test_only_what_may_be_a_part_of_the_prompt_is_a_warning(more: dict[str, Any], warned: bool, jsonl: Any) -> None:
    row = {"asked": "Be brief. Which river? River?", "good": "Elbe", "bad": "none", **more}
    columns = {"prompt": "asked", "chosen": "good", "rejected": "bad"}
    _, report = read_pairs(DataSettings(path=jsonl([row] * 3), columns=columns))
    assert bool(report.sources[0].warnings) == warned


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("best_vs_worst", [("r1", "r3", 9.0, 3.0)]),
        ("all", [("r1", "r0", 9.0, 7.0), ("r2", "r0", 9.0, 7.0), ("r0", "r3", 7.0, 3.0), ("r1", "r3", 9.0, 3.0),
                 ("r2", "r3", 9.0, 3.0)]),
    ],
)  # fmt: skip
def test_scored_answers_become_pairs_by_a_rule(rule: Any, expected: list[Any], jsonl: Any) -> None:
    equal = {"instruction": "A lake?", "completions": [{"response": x, "overall_score": 1.0} for x in "ab"]}
    pairs, report = read_pairs(DataSettings(path=jsonl([equal, ULTRAFEEDBACK]), pair_rule=rule))
    assert [(p["chosen"], p["rejected"], p["score_chosen"], p["score_rejected"]) for p in pairs] == expected
    source = report.sources[0]
    assert (source.dropped, source.dropped_rows) == ({"no_ranking": 1}, {"no_ranking": ["1"]})
    assert source.read + source.added == source.kept + 1
    assert any(rule in note for note in source.notes)
    assert set(pairs["source_row"]) == {2}


def test_the_random_answer_is_drawn_by_seed_and_prompt(jsonl: Any) -> None:
    rows = [{**ULTRAFEEDBACK, "instruction": f"River {i}?"} for i in range(40)]
    pairs, again, other = (load_pairs(jsonl(rows), seed=seed)["rejected"][:] for seed in (1, 1, 2))
    assert pairs == again != other
    assert set(pairs) == {"r0", "r3"}
    assert load_pairs(jsonl(rows[::-1]), seed=1)["rejected"][:] == pairs[::-1]


@given(st.lists(st.integers(0, 4), max_size=6), st.sampled_from(PAIR_RULES))
def test_chosen_always_scores_above_rejected(scores: list[int], rule: Any) -> None:
    found = choose_pairs(scores, rule, random.Random(0))
    assert all(scores[a] > scores[b] for a, b in found)
    assert len(found) == (
        sum(a != b for i, a in enumerate(scores) for b in scores[:i]) if rule == "all" else len(set(scores)) > 1
    )
    if rule != "all" and found:
        assert scores[found[0][0]] == max(scores)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q", "generations": ["a", "b", "c"], "ratings": [1, 5, None]},
        {"input": "Q", "responses": ["a", "b"], "scores": ["1", "5"]},
        {"prompt": "Q", "answers": [{"answer": "a", "rank": 5.0}, {"answer": "b", "rank": 2.0}]},
        {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1},
        {"prompt": "Q", "response_a": "a", "response_b": "b", "winner": "Model_B"},
        {"prompt": "Q", "output_1": "a", "output_2": "b", "preference": 2},
    ],
)
def test_siblings_of_scored_and_compared_answers(row: dict[str, Any], jsonl: Any) -> None:
    assert sides(load_pairs(jsonl([row]))) == {"prompt": "Q", "chosen": "b", "rejected": "a"}


def test_wrong_rows_of_layouts(jsonl: Any, refused: Any) -> None:
    few = jsonl([{"instruction": "Q", "generations": ["a", "b"], "ratings": [1]}])
    refused(lambda: load_pairs(few), few, "row 1", "'ratings'", "2 scores")
    arena = {"conversation_a": talk("a"), "conversation_b": talk("b")}
    path = jsonl([{**arena, "winner": w} for w in ("model_a", "tie", "tie (bothbad)")])
    _, report = read_pairs(DataSettings(path=path))
    assert (report.kept, report.dropped) == (1, {"tie": 2})
    for winner in ("nobody knows", None):
        odd = jsonl([{**arena, "winner": "model_a"}, {**arena, "winner": winner}])
        refused(lambda odd=odd: load_pairs(odd), "row 2", "'winner'", "names no winner")
    kto = jsonl([{"prompt": "p", "completion": "c", "label": True}])
    refused(lambda: load_pairs(kto), kto, "KTO", "join a good and a bad answer")
    refused(lambda: load_pairs([{"messages": talk("a"), "label": False}]), "KTO")
    refused(lambda: load_pairs([{"instruction": "q", "output": "a", "kto_tag": True}]), "KTO")
    refused(lambda: load_pairs([{"conversations": talk("a"), "kto_tag": True}]), "KTO")
    infinite = [{"prompt": "p", "response_a": "a", "response_b": "b", "preference": math.inf}]
    refused(lambda: load_pairs(infinite), "row 1", "'preference'", "names no winner")
    refused(lambda: load_pairs(kto, pair_rule="worst"), "best_vs_random, best_vs_worst, all")


def test_layouts_have_names_of_their_own() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_nested_columns_can_be_mapped(jsonl: Any, refused: Any) -> None:
    path = jsonl([{"x": {"ask": "Q"}, "y": {"good": "a", "bad": {"text": "b"}}}])
    columns = {"prompt": "x.ask", "chosen": "y.good", "rejected": "y.bad.text"}
    pairs, report = read_pairs(DataSettings(path=path, columns=columns))
    assert sides(pairs) == {"prompt": "Q", "chosen": "a", "rejected": "b"}
    assert report.sources[0].unread_columns == ()
    wrong = {**columns, "prompt": "x.aks", "rejected": "y.bad.txt"}
    refused(lambda: load_pairs(path, columns=wrong), "'x.aks'", "'y.bad.txt'", "prompt: x.ask", "chosen: y.good")


def test_all_missing_columns_are_named_at_once(jsonl: Any, refused: Any) -> None:
    path = jsonl([{"instruction": "Q", "non_preferred": "b", "preferred": "a"}])
    refused(
        lambda: load_pairs(path), path, "'chosen', 'rejected'",
        "--data.columns '{chosen: preferred, rejected: non_preferred, prompt: instruction}'",
    )  # fmt: skip


def test_names_are_found_in_spite_of_case_spaces_and_hyphens(jsonl: Any) -> None:
    path = jsonl([{" Prompt": "Q", "CHOSEN": "a b", "Rejected ": "a c", "Rating Chosen": 5, "Rating Rejected": 1}])
    pairs, report = read_pairs(DataSettings(path=path))
    assert sides(pairs) == {"prompt": "Q", "chosen": "a b", "rejected": "a c"}
    assert pairs[0]["score_chosen"] == 5.0
    assert "'Rating Chosen'" in report.sources[0].notes[0]
    exact = jsonl([{"prompt": "Q", "Prompt": "other", "chosen": "a", "rejected": "b"}])
    assert load_pairs(exact)[0]["prompt"] == "Q"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("system", "Be kind.", "`system: system`"),
        ("History", [["a", "b"]], "`history: History`"),
        ("context", "A long text.", "`input: context`"),
        ("images", ["a.png"], "only text is trained on"),
    ],
)
def test_what_a_prompt_would_lose_is_a_warning(
    column: str, value: Any, words: str, jsonl: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    load_pairs(jsonl([{**row, column: None}, {**row, column: value}]))
    assert words in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    caplog.clear()
    load_pairs(jsonl([{**row, column: None}, {**row, column: [] if isinstance(value, list) else " "}]))
    assert ("warning" in caplog.text) is (column == "images")


def test_columns_of_images_are_known_by_their_type(caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "picture": {"path": "a.png", "bytes": None}}
    load_pairs(Dataset.from_list([row]).cast_column("picture", Image(decode=False)))
    assert "'picture' is not read: only text" in caplog.text


def test_the_mapping_to_write_holds_the_system_message(jsonl: Any, refused: Any) -> None:
    path = jsonl([{"system": "Be kind.", "question": "Q?", "chosen": "good", "rejected": "bad"}])
    refused(lambda: load_pairs(path), path, "--data.columns '{prompt: question, system: system}'")


def test_a_system_message_is_read_where_it_is_mapped(jsonl: Any) -> None:
    rows = [{"system": text, "question": "Q?", "chosen": "good", "rejected": "bad"} for text in ("Be kind.", "", None)]
    pairs = load_pairs(jsonl(rows), columns={"prompt": "question", "system": "system"})
    assert [pair["prompt"] for pair in pairs] == [[S, U], [U], [U]]
    own = load_pairs(jsonl([{**PAIR, "prompt": [S, U], "about": "Other."}]), columns={"system": "about"})
    assert own[0]["prompt"] == [S, U]


@pytest.mark.parametrize("text", ["[{'role': " + "[" * 5000, '{"role": ' + "[" * 200_000])
def test_messages_nested_too_deeply_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_text(text)


_SAYS = '[{"id": 1, "role": "assistant", "content": "The Elbe."}]'


@pytest.mark.parametrize(
    "text",
    [
        *(_SAYS, json.dumps(_SAYS), f'{{"messages": {_SAYS}}}', f"({_SAYS[1:-1]},)", str(json.loads(_SAYS))),
        *(str(np.array(json.loads(_SAYS))), repr(np.array(json.loads(_SAYS)))),
        str([{"name": math.nan, **json.loads(_SAYS)[0]}]),
    ],
    ids=["other key first", "JSON twice", "in an object", "tuple", "Python", "numpy", "array", "pandas' nan"],
)
def test_messages_as_text_in_other_wrappings(text: str, jsonl: Any) -> None:
    row = {"prompt": "Name a river.", "chosen": text, "rejected": text.replace("Elbe", "Rhine")}
    (pair,) = load_pairs(jsonl([row]))
    assert [message["content"] for message in pair["chosen"]] == ["The Elbe."]
    assert [message["content"] for message in pair["rejected"]] == ["The Rhine."]


@pytest.mark.parametrize(
    "value",
    [
        *(["a b", "c 'd' {"], ["it's", "\"x\" 'y'"], [1.5, -2.0, 3e-5], [[1, 2], [3, -4]], [True, False]),
        [{"role": "user", "content": "x}\n{'y'"}, {"role": "user", "content": ["z", "]["]}],
    ],
)
def test_what_numpy_prints_is_the_list_it_was(value: list[Any]) -> None:
    array = np.array(value)
    assert parse_text(str(array)) == parse_text(repr(array)) == parse_text(repr(value)) == value


@pytest.mark.parametrize("text", ["[1 2 ... 5]", "[f('x')]", "[x]", "['x'", "1 + 2", "[a for a in b]", "array()", ""])
def test_what_is_no_printed_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor what Python prints"):
        parse_text(text)


def test_a_single_message_as_text_counts_as_a_row_of_messages(jsonl: Any) -> None:
    pairs, report = read_pairs(DataSettings(path=jsonl([{"prompt": repr(U), "chosen": "a", "rejected": "b"}])))
    assert pairs[0]["prompt"] == [U]
    assert "rows that keep lists or messages as text: 1, in prompt" in report.sources[0].notes


def test_single_answers_beside_an_unread_conversation_name_its_column(jsonl: Any, refused: Any) -> None:
    for column in ("conversations", "dialogue"):
        path = jsonl([{column: [U], "chosen": [A], "rejected": [B]}])
        refused(lambda path=path: load_pairs(path), path, "row 1", f"columns: {{prompt: {column}}}")
    (pair,) = load_pairs(path, columns={"prompt": "dialogue"})
    assert pair["prompt"] == [U]


def test_rows_under_keys_of_their_own_are_told_what_to_write(tmp_path: Path, refused: Any) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    (path := tmp_path / "by_id.json").write_text(json.dumps({"1": pair, "2": pair}))
    refused(lambda: load_pairs(path), str(path), "jq '[.[]]'")


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({"score_chosen": 3}, ["'score_chosen'", "no 'score_rejected'"]),
        ({"rejected_rating": 3}, ["'rejected_rating'", "no 'chosen_rating'"]),
        ({"score_chosen": 3, "Score Rejected": 1}, []),
        ({"score_chosen": 3, "margin": 1}, []),
    ],
)
def test_half_of_the_scores_is_a_warning(more: dict[str, Any], warned: list[str], jsonl: Any) -> None:
    _, report = read_pairs(DataSettings(path=jsonl([{"prompt": "q", "chosen": "a", "rejected": "b", **more}])))
    said = " ".join(report.sources[0].warnings)
    assert bool(said) == bool(warned)
    assert all(word in said for word in warned)


def test_answers_in_json_that_are_no_messages_stay_text(jsonl: Any) -> None:
    row = {
        "prompt": "Describe Bob.",
        "chosen": '{"name": "Bob", "role": "baker"}',
        "rejected": '{"role_from": "user"}',
    }
    (pair,) = load_pairs(jsonl([row]))
    assert (pair["chosen"], pair["rejected"]) == (row["chosen"], row["rejected"])


def test_messages_as_text_that_cannot_be_read(jsonl: Any, refused: Any) -> None:
    good = {"prompt": "Q?", "chosen": repr([A]), "rejected": repr([B])}
    path = jsonl([good, {**good, "rejected": repr([B])[:-1]}])
    refused(lambda: load_pairs(path), path, "row 2", "'rejected'", "neither JSON nor what Python prints")
    _, report = read_pairs(DataSettings(path=jsonl([good, good, {**good, "chosen": "plain"}])))
    assert "rows that keep lists or messages as text: 3, in chosen, rejected" in report.sources[0].notes
