"""The judge metric: margins of programs, reward models and language models that compare answers in both orders."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from loopback import running
from mixdpo import load_pairs, score
from mixdpo.cli.main import main
from mixdpo.common.errors import RunError
from mixdpo.data.arrays import float_column
from tiny import tiny_reward_model

LONGER = "('A' if len(a) > len(b) else 'B' if len(b) > len(a) else None)"
Program = Callable[..., dict[str, Any]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Write a program that compares the answers a and b of a case, and return the settings of that judge."""

    def write(better: str, name: str = "judge", otherwise: str = "A=B") -> dict[str, Any]:
        path = tmp_path / f"{name}.py"
        path.write_text(
            "import json, sys\n"
            "for line in sys.stdin:\n"
            "    case = json.loads(line)\n"
            "    a, b = case['answer_a'], case['answer_b']\n"
            f"    better = {better}\n"
            f"    print({{'A': 'A>B', 'B': 'B>A'}}.get(better, {otherwise!r}))\n"
        )
        return {"judge": f"{sys.executable} {path}", "kind": "program"}

    return write


def chat(*answers: tuple[str, str], prompt: str = "Say it.") -> list[dict[str, Any]]:
    return [{"prompt": f"{prompt} {row}", "chosen": a, "rejected": b} for row, (a, b) in enumerate(answers)]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return chat(("longest", "short"), ("a", "bcd"), ("one", "two"), ("right", "no"))


def margins(source: Any, **settings: Any) -> list[float]:
    return float_column(score(load_pairs(source), "judge", **settings), "margin/judge").tolist()


def test_margins_are_the_verdicts_of_a_program(rows, program, caplog) -> None:
    with caplog.at_level(logging.INFO, "mixdpo"):
        assert margins(rows, judge=program(LONGER)) == [1.0, -1.0, 0.0, 1.0]
    assert "prefers the chosen answer in 2 and the rejected one in 1; 1 are ties, in 0 of which" in caplog.text


def test_what_the_order_decides_is_a_tie(rows, program, caplog) -> None:
    with caplog.at_level(logging.INFO, "mixdpo"):
        assert margins(rows, judge=program("'A'")) == [0.0] * 4
        assert margins(rows, judge=program("'B'")) == [0.0] * 4
    assert "in 4 of which the order decided (4 for the answer shown first)" in caplog.text
    assert "in 4 of which the order decided (0 for the answer shown first)" in caplog.text
    # A preference in one order and a tie in the other do not contradict each other.
    assert margins(rows, judge=program("'A' if len(a) > len(b) else None")) == [0.5, -0.5, 0.0, 0.5]


def test_several_judges_are_a_mean(rows, program, caplog) -> None:
    judges = [program(LONGER, "longer"), program("'A' if a < b else 'B'", "first"), program("'A'", "biased")]
    with caplog.at_level(logging.INFO, "mixdpo"):
        found = margins(rows, judge=judges)
    np.testing.assert_allclose(found, np.mean([[1, -1, 0, 1], [1, 1, 1, -1], [0, 0, 0, 0]], axis=0))
    assert "3 judges prefer different answers in 2 of 4 pairs" in caplog.text


def test_reasoning_is_not_judged_and_equal_answers_are_ties(program) -> None:
    rows = chat(("<think>a long thought</think>ab", "abc"), ("<think>one</think>same", "<think>two</think>same"))
    assert margins(rows, judge=program(LONGER)) == [-1.0, 0.0]


def test_a_program_reads_chat_and_columns(tmp_path, jsonl, program) -> None:
    rows = [
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}],
         "chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}],
         "wanted": wanted}
        for wanted in ("x", "y")
    ]  # fmt: skip
    system = {"role": "system", "content": "Be brief."}
    settings = program(f"case['prompt'][0] == {system} and ('A' if a == case['columns']['wanted'] else 'B')")
    scored = tmp_path / "scored.parquet"
    words = ["--score.judge.judge.judge", settings["judge"], "--score.judge.judge.kind", "program"]
    assert main(["score", jsonl(rows), "--metric", "judge", *words, "--output", str(scored)]) == 0
    assert float_column(load_pairs(str(scored)), "margin/judge").tolist() == [1.0, -1.0]


def test_a_reward_model_prefers_by_bradley_terry(tmp_path, tokenizer) -> None:
    folder = tiny_reward_model(tokenizer, tmp_path / "reward", tokenizer.pad_token_id)
    rows = [
        {"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                    {"role": "user", "content": text}],
         "chosen": [{"role": "assistant", "content": text * 2}], "rejected": [{"role": "assistant", "content": "no"}]}
        for text in ("one", "two", "three")
    ]  # fmt: skip
    pairs = load_pairs(rows)
    both = score(pairs, ["judge", "reward_model"], judge={"judge": folder}, reward_model={"model": folder})
    rewards = float_column(both, "margin/reward_model")
    assert np.ptp(rewards) > 0
    np.testing.assert_allclose(float_column(both, "margin/judge"), np.tanh(rewards / 2), atol=1e-5)


# ---- language models ----


def asked(body: dict[str, Any]) -> tuple[str, str, str]:
    """Return request, answer A and answer B of what a judge was asked by the package's own prompt."""
    content = body["messages"][-1]["content"]
    found = re.search(
        r"<request>\n(.*)\n</request>.*<answer A>\n(.*)\n</answer A>.*<answer B>\n(.*)\n</answer B>", content, re.S
    )
    assert found is not None
    return found[1], found[2], found[3]


def test_a_language_model_is_asked_in_both_orders(chat_rows, jsonl, tmp_path) -> None:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")

    def answer(body: dict[str, Any]) -> str:
        _, a, b = asked(body)
        return f"A says [[A]].\n[[{'A' if a > b else 'B'}]]" if body["model"] == "sharp" else "[[C]]"

    with running(answer) as endpoint:
        judges = [{"judge": name, "endpoint": {"base_url": endpoint.url}} for name in ("sharp", "dull")]
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"score": {"judge": {"judge": judges}}}))
        words = [jsonl(chat_rows), "--config", str(recipe), "--output", str(tmp_path / "scored.jsonl")]
        assert main(["score", *words]) == 0
        calls = len(endpoint.bodies)
        assert main(["score", *words]) == 0
        assert len(endpoint.bodies) == calls == 12, "finished verdicts are kept"
    found = [json.loads(line)["margin/judge"] for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert found == [0.5, 0.5, 0.5], "Four > Five, Red > Dog, Rex > Felix in both orders, and ties"
    shown = [asked(body) for body in endpoint.bodies if body["model"] == "sharp"]
    assert {request for request, _, _ in shown} == {f"system: Be brief.\n\nuser: {q}" for q in
                                                    ("Two and two?", "A colour?", "A dog's name?")}  # fmt: skip
    assert {(a, b) for _, a, b in shown} == {(b, a) for _, a, b in shown}
    assert len(set(shown)) == 6


def test_verdicts_that_cannot_be_read_are_an_error_ties_or_too_many(program, jsonl, capsys) -> None:
    rows = chat(*((f"long {row}", "b") for row in range(9)), ("?", "b"))
    judge = program("'A' if len(a) > len(b) else 'B' if len(b) > len(a) else None", otherwise="who knows")
    assert margins(rows, judge=judge, unread="tie") == [1.0] * 9 + [0.0]
    with pytest.raises(RunError, match=r"2 of 20 verdicts .* in 1 pairs, first in row 10: 'who knows'.*unread to tie"):
        margins(rows, judge=judge)
    with pytest.raises(RunError, match=r"^(?!.*unread to tie).*4 of 12 verdicts") as caught:
        margins([*rows[:4], *rows[9:], {**rows[9], "prompt": "Again."}], judge=judge, unread="tie")
    assert caught.value.exit_status == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["score.judge.judge names no judge"]),
        ({"judge": {"judge": "x", "knd": "program"}}, ["unknown key score.judge.judge.knd", "kind"]),
        ({"judge": {"judge": "x", "endpoint": {"base": "u"}}}, ["unknown key score.judge.judge.endpoint.base"]),
        ({"judge": [{"judge": "x", "kind": "program"}] * 2}, ["names the judge 'x' twice"]),
        ({"judge": [3]}, ["must be", "not 3"]),
        ({"judge": "x", "unread": "ignore"}, ["score.judge.unread"]),
        ({"judge": {"judge": "x", "kind": "program"}, "judge_prompt": "p.txt"}, ["is asked nothing in words"]),
    ],
)
def test_settings_that_are_wrong(rows, refused, settings, words) -> None:
    refused(lambda: margins(rows, **settings), *words)


def test_a_plan_and_an_audit_take_its_margins(rows, program, jsonl, tmp_path, capsys) -> None:
    judge = program(LONGER)
    words = ["--score.judge.judge", json.dumps(judge)]
    scored, plan, report = (str(tmp_path / name) for name in ("scored.parquet", "plan.parquet", "report"))
    assert main(["score", jsonl(rows), "--metric", "judge", *words, "--output", scored]) == 0
    assert main(["plan", scored, "--plan.metric", "judge", "--plan.threshold", "0.5", "--output", plan]) == 0
    assert main(["audit", scored, "--output", report]) == 0
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert figures["margins"]["metric"] == "judge"
    assert figures["margins"]["metrics"]["judge"]["contradicted"]["value"] == 0.25
    capsys.readouterr()
    assert main(["plan", jsonl(rows), "--plan.metric", "judge", "--output", plan]) == 2
    assert "mixdpo score" in capsys.readouterr().err
