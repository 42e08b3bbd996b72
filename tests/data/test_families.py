"""Of every family of chat templates: ids are the template's own, masks the hand-written ones, and nothing is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Any

import pytest
from datasets import Dataset

from families import FAMILIES, tokenizer_of
from families.cases import CASES
from families.expected import Segments, expected_of
from mixdpo import load_pairs, tokenize_pairs
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of

SIDES = ("chosen", "rejected")
WRITTEN = [(name, case) for name in FAMILIES for case in expected_of(name)]
RENDERED = [(name, case) for name, case in WRITTEN if expected_of(name)[case].prompt]
REFUSED = [(name, case) for name, case in WRITTEN if not expected_of(name)[case].prompt]
LEFT_OUT = [
    # A setting that a template does not know takes nothing away.
    (name, case)
    for name in FAMILIES
    for case in CASES
    if case not in expected_of(name) and case != "no thinking"
]
CALLING = [name for name, case in RENDERED if case == "tools"]


@cache
def loaded(cases: tuple[str, ...], thoughts: str) -> Dataset:
    return load_pairs(Dataset.from_list([CASES[case].row(thoughts) for case in cases]))


def tokenised(name: str, *cases: str, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the tokens of each pair, and the counts that are not 0."""
    return tokens_and_counts(name, loaded(cases, FAMILIES[name].thoughts), **settings)


def tokens_and_counts(name: str, pairs: Dataset, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    tokens, report = tokenize_pairs(pairs, tokenizer_of(name), **settings)
    return tokens.to_list(), {count: value for count, value in report.counts.items() if value}


@cache
def of_case(name: str, case: str) -> tuple[dict[str, Any], dict[str, int]]:
    (tokens,), counts = tokenised(name, case, chat_template_kwargs=CASES[case].chat_template_kwargs)
    return tokens, counts


def text(name: str, ids: list[int]) -> str:
    return tokenizer_of(name).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def segments(name: str, tokens: dict[str, Any], side: str) -> Segments:
    pairs = zip(tokens[f"{side}_mask"], tokens[f"{side}_ids"], strict=True)
    return [
        (trained, text(name, [token for _, token in run])) for trained, run in groupby(pairs, key=lambda pair: pair[0])
    ]


def only_last_trained(expected: Segments) -> Segments:
    """Join all before the last trained segment into one that is not."""
    last = max(i for i, (trained, _) in enumerate(expected) if trained)
    before = "".join(written for _, written in expected[:last])
    return [(False, before)] * bool(before) + expected[last:]


@pytest.mark.parametrize(("name", "case"), RENDERED)
def test_ids_are_the_templates_own(name: str, case: str) -> None:
    tokens, _ = of_case(name, case)
    tokenizer, row = tokenizer_of(name), CASES[case].row(FAMILIES[name].thoughts)
    if name.startswith("deepseek"):  # these add text to the arguments
        row = with_calls(row, as_text)
    for side in SIDES:
        own = tokenizer.apply_chat_template(
            row["prompt"] + row[side], tools=row.get("tools"), return_dict=False, **CASES[case].chat_template_kwargs
        )
        ends = [tokenizer.eos_token_id] * ("eos_appended" in expected_of(name)[case].counts)
        assert whole(tokens, side) == own + ends


@pytest.mark.parametrize(("name", "case"), RENDERED)
def test_trained_is_what_the_assistant_says(name: str, case: str) -> None:
    tokens, _ = of_case(name, case)
    expected = expected_of(name)[case]
    assert text(name, tokens["prompt_ids"]) == expected.prompt
    for side in SIDES:
        assert segments(name, tokens, side) == getattr(expected, side)


@pytest.mark.parametrize(("name", "case"), RENDERED)
def test_nothing_is_counted_without_a_reason(name: str, case: str) -> None:
    turns = {"untrained_turns": 1} if len(CASES[case].chosen) > 1 else {}
    assert of_case(name, case)[1] == expected_of(name)[case].counts | turns


@pytest.mark.parametrize(("name", "case"), REFUSED)
def test_a_refusal_is_counted_once_with_the_templates_reason(name: str, case: str) -> None:
    tokens, counts = tokenised(name, "plain", case)
    assert [pair["row"] for pair in tokens] == [0]
    assert counts == {**expected_of(name)["plain"].counts, "template_refused": 1}


@pytest.mark.parametrize(("name", "case"), LEFT_OUT)
def test_what_a_template_does_not_know_is_never_lost_in_silence(name: str, case: str) -> None:
    _, counts = tokenised(name, "plain", case)
    assert counts.keys() - expected_of(name)["plain"].counts.keys()


def whole(tokens: dict[str, Any], side: str) -> list[int]:
    return tokens["prompt_ids"] + tokens[f"{side}_ids"]


def same_tokens(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first[key] == second[key] for key in first if key.endswith(("_ids", "_mask")))


@pytest.mark.parametrize("name", ["chatml", "llama3", "vicuna", "smollm3"])
def test_what_is_lost_is_found_where_the_question_has_the_same_words(name: str) -> None:
    says = {"role": "assistant", "content": "No."}
    call = with_calls({**CASES["tools"].row("thinking"), "prompt": []}, lambda _: {"city": "Bonn"})["chosen"][0]
    lost = {"lost_thinking": {**says, "thinking": "Bonn"}}
    if name not in CALLING:
        lost["lost_tool_calls"] = {**call, "content": "Yes."}
    for count, answer in lost.items():
        row = {"prompt": [{"role": "user", "content": "Call rain with the city Bonn."}], "rejected": [says]}
        _, counts = tokens_and_counts(name, load_pairs(Dataset.from_list([{**row, "chosen": [answer]}])))
        assert counts[count] == 1


def with_calls(row: dict[str, Any], change: Callable[[Any], Any], **more: Any) -> dict[str, Any]:
    """Return a row with the arguments of its calls changed, and more keys in the messages that call."""
    row = copy.deepcopy(row)
    for message in row["prompt"] + row["chosen"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = change(call["function"]["arguments"])
            message.update(more)
    return row


def as_text(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)


@cache
def loaded_calls() -> tuple[Dataset, Dataset]:
    """Return pairs with the same calls as objects and as text."""
    deep = {"city": "Köln", "days": 3, "from": {"hour": 6.5, "by": ["car", "rail"]}, "now": True}
    objects = with_calls(CASES["tools"].row("reasoning_content"), lambda _: deep)
    texts = with_calls(objects, as_text, content="")
    return load_pairs(Dataset.from_list([objects])), load_pairs(Dataset.from_list([texts]))


@pytest.mark.parametrize("name", CALLING)
def test_arguments_as_objects_and_as_text_are_the_same(name: str) -> None:
    (of_objects, counts), (of_text, _) = (tokens_and_counts(name, pairs) for pairs in loaded_calls())
    assert same_tokens(of_objects[0], of_text[0])
    assert counts == of_case(name, "tools")[1]
    written = text(name, of_objects[0]["chosen_ids"])
    assert all(word in written for word in ("Köln", "days", "3", "hour", "6.5", "car", "rail"))


@cache
def loaded_late_call() -> Dataset:
    """Return a pair whose chosen answer calls after a further question, behind which some templates move the tools."""
    row = CASES["tools"].row("reasoning_content")
    (question,) = CASES["turns"].prompt
    return load_pairs(Dataset.from_list([{**row, "prompt": [question], "chosen": row["prompt"][3:] + row["chosen"]}]))


@pytest.mark.parametrize("name", CALLING)
def test_a_call_after_a_further_question_is_trained(name: str) -> None:
    (tokens,), _ = tokens_and_counts(name, loaded_late_call())
    first, call, last = (written for trained, written in segments(name, tokens, "chosen") if trained)
    assert "3 mm." in first
    assert "Köln" in call
    assert "5 mm." in last
    assert "In Köln?" not in first + call


@pytest.mark.parametrize("name", [name for name in FAMILIES if "thoughts" in expected_of(name)])
@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_thoughts_have_two_spellings(name: str, key: str) -> None:
    (tokens,), _ = tokens_and_counts(name, loaded(("thoughts",), key))
    assert same_tokens(tokens, of_case(name, "thoughts")[0])


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("gpt_oss", "2025-02-03"),
        ("granite", "February 03, 2025"),
        ("llama3_1", "03 Feb 2025"),
        ("smollm3", "03 February 2025"),
    ],
)
def test_the_date_that_a_template_writes_is_pinned(name: str, day: str) -> None:
    pairs = loaded(("plain",), FAMILIES[name].thoughts)
    tokens, _ = tokens_of(pairs, tokenizer_of(name), TokenSettings(template_date="2025-02-03"))
    days = {
        "gpt_oss": "2025-02-03",
        "granite": "February 03, 2025",
        "llama3_1": "03 Feb 2025",
        "smollm3": "03 February 2025",
    }
    assert days[name] in text(name, tokens[0]["prompt_ids"])


@pytest.mark.parametrize("name", ["mistral_v3", "mistral_nemo"])
def test_a_question_that_is_not_in_the_shared_prompt_is_not_trained(name: str) -> None:
    """These write the system message into the user's last turn, or leave it out of a whole conversation."""
    row = CASES["system"].row(FAMILIES[name].thoughts)
    row["chosen"] = row["chosen"][-1:]
    (tokens,), _ = tokens_and_counts(name, load_pairs(Dataset.from_list([row])))
    for side, answer in (("chosen", "The Rhine.</s>"), ("rejected", "No.</s>")):
        trained = [written for is_trained, written in segments(name, tokens, side) if is_trained]
        assert [written.strip() for written in trained] == [answer]


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_last_turn_can_be_trained(name: str) -> None:
    (tokens,), _ = tokenised(name, "turns", loss_turns="last")
    expected = expected_of(name)["turns"]
    assert segments(name, tokens, "chosen") == only_last_trained(expected.chosen)
    assert segments(name, tokens, "rejected") == expected.rejected


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, case in RENDERED if case in ("turns", "tools")])
def test_everything_can_be_trained(name: str, case: str) -> None:
    (tokens,), _ = tokenised(name, case, assistant_only_loss=False, mask_empty_thinking=False)
    of_turns, _ = of_case(name, case)
    for side in SIDES:
        assert all(tokens[f"{side}_mask"])
        assert whole(tokens, side) == whole(of_turns, side)


def test_a_first_word_in_one_token_with_the_blanks_of_an_empty_think_block_is_trained() -> None:
    row = {side: [{"role": "assistant", "content": f" No {side}"}] for side in SIDES}
    row["prompt"] = [{"role": "user", "content": "Name a river."}]
    (tokens,), counts = tokens_and_counts("qwen3", load_pairs([row]))
    assert counts == {"empty_thinking": 2}
    trained = [token for token, mask in zip(tokens["chosen_ids"], tokens["chosen_mask"], strict=True) if mask]
    assert text("qwen3", trained) == " No chosen<|im_end|>\n"


def test_more_turns_than_a_byte_counts_are_counted() -> None:
    turn = [{"role": "user", "content": "Another one?"}, {"role": "assistant", "content": "The Elbe."}]
    row = {"prompt": turn[:1], "chosen": [turn[1], *turn * 199], "rejected": [{"role": "assistant", "content": "No."}]}
    _, counts = tokens_and_counts("glm4_5", load_pairs([row]))
    assert counts["empty_thinking"] == 201
