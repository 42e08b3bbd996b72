"""What tokenisation drops, loses or spoils is a finding of the audit with its rows, and clean chats raise none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families import FAMILIES, tokenizer_of
from families.cases import CASES
from families.expected import expected_of
from mixdpo import AuditSettings, audit, load_pairs
from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.report import AuditReport
from mixdpo.auditing.token_examples import SIDE_CHARACTERS
from mixdpo.auditing.token_facts import FLAGGED
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.token_report import ALARMS, DROPS
from preferences import HOSTILE, clean_rows

Row = dict[str, Any]
QUICK = AuditSettings(near_duplicates=False, max_length=4096)


def says(content: str, **more: Any) -> list[Row]:
    return [{"role": "assistant", "content": content, **more}]


def chats(n: int = 30) -> list[Row]:
    rows = clean_rows(n)
    return [
        {
            **row,
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": says(row["chosen"]),
            "rejected": says(row["rejected"]),
        }
        for row in rows
    ]


def call(**arguments: str) -> list[Row]:
    function = {"name": "rain", "arguments": arguments}
    return [{"role": "assistant", "tool_calls": [{"type": "function", "id": "abcdefghi", "function": function}]}]


def with_system(row: Row) -> Row:
    return {**row, "prompt": [{"role": "system", "content": "Be brief, please."}, *row["prompt"]]}


FAULTS: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "template_refused": ("gemma2", with_system),
    "only_end_token": ("llama3", lambda row: {**row, "chosen": call(city="Bonn")}),
    "lost_tool_calls": ("llama3", lambda row: {**row, "chosen": call(city="Bonn")}),
    "lost_thinking": ("chatml", lambda row: {**row, "chosen": says("Four.", reasoning_content="Two and two.")}),
    "same_after_template": ("llama3", lambda row: {**row, "chosen": says("Four."), "rejected": says(" Four.")}),
    "second_end": ("chatml", lambda row: {**row, "chosen": says(row["chosen"][0]["content"] + "<|im_end|>")}),
}


def flagged(report: AuditReport, name: str) -> list[int]:
    return np.flatnonzero(report.flags[name] >= 0).tolist()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_row(name: str) -> None:
    family, fault = FAULTS[name]
    rows = chats()
    for place in (4, 9):
        rows[place] = fault(rows[place])
    report = audit(load_pairs(rows), tokenizer=tokenizer_of(family), settings=QUICK)
    assert flagged(report, name) == [4, 9]
    finding = next(one for one in report.findings if one.name == name)
    assert (finding.pairs, finding.estimate["n"]) == (2, 30)
    assert finding.fix
    counted = {count["name"]: count for count in report.figures["tokens"]["counts"]}
    assert (counted[name]["pairs"], counted[name]["first"]) == (2, 5)


def test_limits_of_length() -> None:
    rows = chats()
    start = "one two three four five six seven eight " * 4
    rows[2] |= {"chosen": says(start + "a"), "rejected": says(start + "b")}
    rows[3]["prompt"][0]["content"] *= 9
    pairs, tokenizer = load_pairs(rows), tokenizer_of("chatml")
    lengths = audit(pairs.select([2]), tokenizer=tokenizer, settings=QUICK).figures["tokens"]["lengths"]
    short = AuditSettings(near_duplicates=False, max_length=int(lengths["prompt"]["max"]) + 8)
    report = audit(pairs, tokenizer=tokenizer, settings=short)
    assert 2 in flagged(report, "same_after_truncation")
    assert 3 in flagged(report, "prompt_too_long")
    kept = TokenSettings(max_prompt_length=8)
    report = audit(pairs, tokenizer=tokenizer, token_settings=kept, settings=short)
    assert flagged(report, "prompt_too_long") == [], "prompts are cut first"


@pytest.mark.parametrize("family", FAMILIES)
def test_clean_chats_raise_no_alarm(family: str) -> None:
    report = audit(load_pairs(chats()), tokenizer=tokenizer_of(family), settings=QUICK)
    known = {"next_header"} if family == "llama3" else set()  # the first Llama 3 always writes the next header
    assert {finding.name for finding in report.findings} == known


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_tools_and_thinking_are_flagged_where_something_is_known_to_be_lost(family: str) -> None:
    expected = {case: one for case, one in expected_of(family).items() if not CASES[case].chat_template_kwargs}
    pairs = load_pairs([CASES[case].row(FAMILIES[family].thoughts) for case in expected])
    report = audit(pairs, tokenizer=tokenizer_of(family), settings=QUICK)
    for name in FLAGGED:
        assert flagged(report, name) == [i for i, one in enumerate(expected.values()) if name in one.counts], name


def test_a_template_that_wants_a_system_message_is_audited() -> None:
    rows = [{**row, "prompt": [{"role": "system", "content": "Be brief."}, *row["prompt"]]} for row in chats(4)]
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    tokenizer.chat_template = wants + tokenizer.chat_template
    tokens = audit(load_pairs(rows), tokenizer=tokenizer, settings=QUICK).figures["tokens"]
    assert tokens["template_would_double_bos"] is False


def test_what_the_template_and_the_masks_are_told_reaches_the_tokens() -> None:
    rows = chats(4)
    rows[0]["chosen"] += [{"role": "user", "content": "And then?"}, *says("Nothing.")]
    pairs, tokenizer = load_pairs(rows), tokenizer_of("qwen3")

    def view(**told: Any) -> list[dict[str, Any]]:
        told_settings = TokenSettings(**told)
        return audit(pairs, tokenizer=tokenizer, token_settings=told_settings, settings=QUICK).token_examples

    told = TokenSettings(chat_template_kwargs={"enable_thinking": False}, template_date="2026-01-31")
    recorded = audit(pairs, tokenizer=tokenizer, token_settings=told, settings=QUICK).figures["tokens"]["told"]
    assert recorded["chat_template_kwargs"] == {"enable_thinking": False}
    assert recorded["template_date"] == "2026-01-31"
    chosen = view()[0]["sides"]["chosen"]
    assert chosen["trained"] < chosen["tokens"]
    of_all = view(assistant_only_loss=False)[0]["sides"]["chosen"]
    assert of_all["trained"] == of_all["tokens"]
    for kwargs, has_block in (({}, False), ({"enable_thinking": False}, True)):
        prompt = view(chat_template_kwargs=kwargs)[1]["sides"]["prompt"]["pieces"]
        assert any(piece["text"] == "</think>" for piece in prompt) == has_block


def test_pairs_are_shown_as_tokens_and_as_text(tmp_path: Path) -> None:
    rows = chats()
    rows[0]["chosen"] = says(HOSTILE + " \x1b[31m\u202e")
    rows[1]["chosen"] = says("word " * 2 * SIDE_CHARACTERS)
    rows[7]["chosen"] += [{"role": "user", "content": "And then?"}, *says("Nothing.")]
    report = audit(load_pairs(rows), tokenizer=tokenizer_of("chatml"), settings=QUICK)
    assert [example["row"] for example in report.token_examples] == [1, 2, 8]
    shown = report.token_examples[1]["sides"]["chosen"]["pieces"]
    assert sum(len(piece["text"]) for piece in shown) < 2 * SIDE_CHARACTERS
    page = report.save(tmp_path / "report").read_text(encoding="utf-8")
    assert '<span class="of-untrained special">&lt;|im_start|&gt;</span>' in page
    assert "\\x1b[31m\\u202e" in page
    assert "<script>window.hacked" not in page
    assert "<img" not in page


def test_every_drop_and_alarm_is_described() -> None:
    assert set(FLAGGED) <= set(FINDING_TYPES)
    assert {*DROPS, *ALARMS} - set(FLAGGED) == {"bos_in_answer", "special_in_text"}, "found as `special` in all pairs"
