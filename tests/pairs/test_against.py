"""Pairs rated together with policies' own answers: the numbers by hand, and the ways to a policy's answers."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopback import running
from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.pairs.answered import read_answered
from mixdpo.pairs.quality import Quality, quality_of
from tiny import saved, tiny_llama

NUMBER = """import json, re, sys

def number(text, case):
    found = re.search(r"-?[0-9]+", text)
    return int(found[0]) * case.get("columns", {}).get("times", 1) if found else None

for line in sys.stdin:
    case = json.loads(line)
    if "answer" in case:
        print(number(case["answer"], case))
    else:
        a, b = number(case["answer_a"], case), number(case["answer_b"], case)
        print("A>B" if a > b else "B>A" if b > a else "A=B")
"""
SIDES = ("chosen", "rejected", "chosen_wins", "rejected_wins")


@pytest.fixture
def judge(tmp_path: Path) -> list[str]:
    """Options of a program whose grade of an answer is the number in it."""
    script = tmp_path / "number.py"
    script.write_text(NUMBER)
    return ["--judge", f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}", "--judge-kind", "program"]


@pytest.fixture
def rated(tmp_path: Path, judge: list[str]) -> Callable[..., dict[str, Quality]]:
    """Run the command on a file of pairs and return what the pairs that it writes hold."""

    def run(pairs: str, *words: Any, output: str = "out.parquet", status: int = 0) -> dict[str, Quality]:
        path = tmp_path / output
        assert main(["rate", pairs, *judge, *map(str, words), "--output", str(path)]) == status
        return quality_of(load_pairs(str(path))) if path.exists() else {}

    return run


def columns(quality: Quality) -> list[list[float | None]]:
    """Return a row of all four numbers for each pair, None where not known."""
    values = np.stack([getattr(quality, side) for side in SIDES], axis=1)
    return [[None if np.isnan(one) else round(float(one), 9) for one in row] for row in values]


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def own(prompt: str, *texts: str) -> list[dict[str, Any]]:
    return [{"instruction": prompt, "output": text, "sample": at} for at, text in enumerate(texts)]


PAIRS = [
    pair("One?", "9", "2", score_chosen=5.0, score_rejected=1.0, note="kept"),
    pair("One?", "4", "1", score_chosen=5.0, score_rejected=1.0, note="kept"),
    pair("Two?", "7", "no grade", score_chosen=5.0, score_rejected=1.0, note="kept"),
    pair("Three?", "7", "6", score_chosen=5.0, score_rejected=1.0, note="kept"),
]


def test_quality_by_hand(jsonl, rated, tmp_path, capsys) -> None:
    start = jsonl(own("One?", "2", "4", "4", "6") + own("Two?", "7", "", "no grade"), "start.jsonl")
    trained = jsonl(own("Three?", "8") + own("Elsewhere?", "1"), "trained.jsonl")
    found = rated(jsonl(PAIRS), "--against", f"start={start}", "--against", f"trained={trained}")
    assert columns(found["start"]) == [
        [5.0, -2.0, 1.0, 0.125],  # the mean of 2, 4, 4, 6 is 4
        [0.0, -3.0, 0.5, 0.0],
        [0.0, None, 0.5, None],  # an empty answer and one that is not graded are left out
        [None] * 4,
    ]
    assert columns(found["trained"]) == [[None] * 4] * 3 + [[-1.0, -2.0, 0.0, 0.0]]
    written = load_pairs(str(tmp_path / "out.parquet"))
    assert written["score_chosen"][:] == [5.0] * 4
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert (report["prompts"], report["rated"]) == (3, 3)
    of_start = report["policies"]["start"]
    counts = ("answers", "empty", "cut", "prompts_without_answer", "pairs", "known")
    assert [of_start[name] for name in counts] == [7, 1, 0, 1, 4, 3]
    assert of_start["chosen"] == pytest.approx(5 / 3)
    (calls,) = [one["calls"] for one in report["rating"]["judges"].values()]
    assert calls == 5 + 2 + 3, "every different answer to a prompt once, and no empty one"
    answers = [answer for one in read_answered(tmp_path / "out.rated.jsonl") for answer in one.answers]
    assert [answer.score for answer in answers if answer.model == "start"][:4] == [2.0, 4.0, 4.0, 6.0]
    output = capsys.readouterr()
    assert "3 of 4" in output.out
    assert "start: 1 prompts without an answer" in output.err
    assert "start: 1 empty answers" in output.err
    assert "of 10 verdicts 0 failed, 1 unread" in output.out
    assert "trained: 2 prompts without an answer" in output.err


def test_other_columns_stay_and_are_given_to_programs(jsonl, rated, tmp_path) -> None:
    rows = [pair("One?", "3", "2", times=10), pair("Two?", "3", "2", times=1)]
    start = jsonl(own("One?", "1") + own("Two?", "1"), "start.jsonl")
    found = rated(jsonl(rows), "--against", f"start={start}", output="out.jsonl")
    assert found["start"].chosen.tolist() == [20.0, 2.0]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["times"] for line in lines] == [10, 1]


def test_answers_compared_give_the_same_wins(jsonl, rated) -> None:
    start = jsonl(own("One?", "2", "4", "4", "6"), "start.jsonl")
    graded = rated(jsonl(PAIRS[:2]), "--against", f"start={start}")["start"]
    compared = rated(jsonl(PAIRS[:2]), "--against", f"start={start}", "--mode", "pairwise")["start"]
    for side in ("chosen_wins", "rejected_wins"):
        np.testing.assert_array_equal(getattr(compared, side), getattr(graded, side))
    assert compared.chosen[0] > 1
    assert compared.chosen[1] == pytest.approx(0, abs=1e-6), "4 is in the middle of 1, 2, 4, 6 and 9"
    assert (compared.rejected < 0).all()


def test_a_part_of_the_prompts_is_drawn_by_the_seed(jsonl, rated) -> None:
    rows = [pair(f"Question {row // 2}?", f"9 {row}", "2") for row in range(20)]
    start = jsonl([line for row in range(10) for line in own(f"Question {row}?", "5")], "start.jsonl")
    words = (jsonl(rows), "--against", f"start={start}", "--limit", 4)
    known = [rated(*words, "--seed", seed)["start"].known for seed in (0, 0, 1)]
    assert [one.sum() for one in known] == [8, 8, 8]
    assert (known[0] == known[1]).all()
    assert (known[0] != known[2]).any()
    assert (known[0][::2] == known[0][1::2]).all(), "a prompt's pairs go together"


def test_a_model_answers_first(tmp_path, jsonl, tokenizer, rated, judge, capsys) -> None:
    folder = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    rows = [
        pair(told, [{"role": "assistant", "content": "3"}], [{"role": "assistant", "content": "2"}]),
        pair(told[1:], [{"role": "assistant", "content": "8"}], [{"role": "assistant", "content": "2"}]),
        pair(told[:1], [{"role": "assistant", "content": "8"}], [{"role": "assistant", "content": "2"}]),
    ]
    pairs = jsonl(rows)
    words = ["--against", f"tiny={folder}", "--against-samples", 3, "--against-max-new-tokens", 4]
    assert main(["rate", pairs, *judge, *map(str, words), "--dry-run", "--output", str(tmp_path / "o.jsonl")]) == 0
    planned = capsys.readouterr().out
    assert "tiny: 3 answers a prompt at temperature 0.8; " in planned
    assert "verdicts by the program" in planned
    assert not list(tmp_path.glob("o.*"))
    rated(pairs, *words, "--judge-prompt", "none.txt", status=2)
    # What so small a model writes has no number in it, so nothing can be said of it but that.
    rated(pairs, *words, status=1)
    written = tmp_path / "out.tiny.answers.jsonl"
    answers = read_answered(written)
    assert [len(one.answers) for one in answers] == [3, 3]
    assert [one.chat for one in answers] == [
        tuple((m["role"], m["content"]) for m in chat) for chat in (told, told[1:])
    ]


def test_a_model_behind_an_endpoint(jsonl, rated, tmp_path, caplog) -> None:
    pytest.importorskip("openai", reason="calls to an endpoint need the extra eval")
    refused = {"Three?"}

    def answer(body: dict[str, Any]) -> str | int:
        question = body["messages"][-1]["content"]
        return 400 if question in refused else "5" if question == "One?" else "8"

    with running(answer) as endpoint:
        words = ["--against", "start=served", "--against-endpoint", endpoint.url, "--against-samples", 2]
        found = rated(jsonl(PAIRS), *words, "--against-top-p", 0.9)
        assert {(body["model"], body["top_p"]) for body in endpoint.bodies} == {("served", 0.9)}
        assert columns(found["start"])[3] == [None] * 4
        assert "start: 2 answers are missing: " in caplog.text
        refused.clear()
        endpoint.bodies.clear()
        found = rated(jsonl(PAIRS), *words, "--against-top-p", 0.9)
        assert {body["messages"][-1]["content"] for body in endpoint.bodies} == {"Three?"}, "none is asked twice"
    assert found["start"].chosen.tolist() == [4.0, -1.0, -1.0, -1.0]
    assert len(read_answered(tmp_path / "out.start.answers.jsonl")[0].answers) == 2


def test_one_answer_to_a_chat_is_found_by_its_text(jsonl, rated) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    rows = [pair(chat, [{"role": "assistant", "content": "3"}], [{"role": "assistant", "content": "2"}])]
    for file in (own("system: Be brief.\n\nuser: Which?", "1"), [{"prompt": chat, "output": "1"}]):
        assert rated(jsonl(rows), "--against", f"start={jsonl(file, 'own.jsonl')}")["start"].chosen.tolist() == [2.0]


def test_what_is_wrong_is_said_before_anything_is_written(jsonl, rated, tmp_path, capsys) -> None:
    elsewhere = jsonl(own("Elsewhere?", "1"), "elsewhere.jsonl")
    for words, said in (
        (["--against", elsewhere], "write it as NAME=POLICY"),
        (["--against", f"a/b={elsewhere}"], "write it as NAME=POLICY"),
        (["--against", f"a={elsewhere}", "--against", f"a={elsewhere}"], "a second policy called a"),
        (["--against", "a=missing.jsonl"], "missing.jsonl: no such file of answers"),
        (["--against", f"a={elsewhere}"], "no answer to any of the 3 prompts"),
        (["--against", f"a={elsewhere}", "--against-samples", 3, "--against-temperature", 0], "temperature 0"),
        (["--against-samples", 3], "--against-samples: no effect without --against"),
    ):
        rated(jsonl(PAIRS), *words, status=2)
        assert said in capsys.readouterr().err
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    row = pair(*([{"role": role, "content": "9"}] for role in ("user", "assistant", "assistant")), tools=tools)
    row["rejected"] = [{"role": "assistant", "content": "8"}]
    rated(jsonl([row]), "--against", "a=no/such", status=2)
    assert "give files of the policies' answers" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
