"""What is said beside the verdicts on two contenders: answers that are cut, missing or given twice, silent judges."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import Endpoint, running
from mixdpo.cli.main import main
from mixdpo.evaluation.versus import cut_share
from mixdpo.generation.answer_files import PromptTexts

FIRST = """import json, sys
for line in sys.stdin:
    print("A>B")
"""
LONGER = """import json, sys
for line in sys.stdin:
    case = json.loads(line)
    print("A>B" if len(case["answer_a"]) > len(case["answer_b"]) else "B>A")
"""


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with running(Endpoint(lambda body: "[[C]]")) as server:
        yield server


def write(name: str, rows: list[dict]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def answers(name: str, count: int, **more: object) -> str:
    rows = [{"id": f"q{n}", "prompt": f"Question {n}?", "output": f"{name} {n}"} | more for n in range(count)]
    return write(f"{name}.jsonl", rows)


def judge(text: str) -> list[str]:
    Path("judge.py").write_text(text)
    return ["--judge", shlex.join([sys.executable, "judge.py"]), "--judge-kind", "program"]


def test_the_share_of_cut_answers_is_of_the_prompts_that_were_judged() -> None:
    file = Path(
        write("a.jsonl", [{"id": n, "output": "x", "finished": one} for n, one in enumerate((1, [1, 0], 1, 0))])
    )
    texts = PromptTexts("id", {"0": "a b", "1": "c", "2": "d", "3": "e"})
    assert cut_share(file, {"a b", "c", "d"}, texts) == pytest.approx(1 / 3)
    assert cut_share(file, {"a b"}, texts) == 0
    write("a.jsonl", [{"id": 0, "output": "x"}])
    assert cut_share(file, {"a b"}, texts) is None


def test_answers_of_a_file_that_are_cut_have_to_be_generated_again(capsys) -> None:
    base = answers("base", 30)
    rows = [json.loads(line) for line in Path(base).read_text().splitlines()]
    write("own.jsonl", [row | {"finished": n >= 10} for n, row in enumerate(rows)])
    words = ["versus", "base.jsonl", "own.jsonl", *judge(FIRST)]
    assert main([*words, "--limit", "20"]) == 0
    assert (
        "note: 50 % of the answers of own are cut at the longest answer; generate them again"
        in capsys.readouterr().out
    )
    assert "set --max-new-tokens" not in (Path("versus/versus.json").read_text())


@pytest.mark.parametrize("twice", ["base", "own"])
@pytest.mark.parametrize("command", ["versus", "pairwise", "grade"])
def test_a_row_given_twice_is_refused_before_a_judge_is_asked(twice: str, command: str, server, capsys) -> None:
    files = {name: answers(name, 3) for name in ("base", "own")}
    again = Path(files[twice])
    again.write_text(again.read_text() + again.read_text().splitlines()[1] + "\n")
    at = "--judge-endpoint" if command == "versus" else "--endpoint"
    words = {
        "versus": ["versus", files["base"], files["own"]],
        "pairwise": ["eval", "pairwise", "--model", files["own"], "--baseline", files["base"], "-o", "out.json"],
        "grade": ["eval", "grade", "--model", files["own"], "--model", files["base"], "-o", "out.json"],
    }[command]
    assert main(["examples", "pairwise.txt", "grade.txt"]) == 0
    prompt = {"versus": [], "pairwise": ["--judge-prompt", "pairwise.txt"], "grade": ["--judge-prompt", "grade.txt"]}
    assert main([*words, "--judge", "j", at, server.url, *prompt[command]]) == 2
    assert f"{twice}.jsonl, row 4: a second answer to the prompt 'q1'; leave one answer to each" in (
        capsys.readouterr().err
    )
    assert not server.bodies


def test_answers_that_failed_are_told_with_their_cause(server, capsys, caplog) -> None:
    base = answers("base", 30)
    write("prompts.jsonl", [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(12)])
    server.answer = lambda body: "" if "Question 1" in str(body["messages"]) else "An answer."
    own = [f"own@{server.url}", "--prompts", "prompts.jsonl", "--max-retries", "0"]
    assert main(["versus", base, *own, *judge(LONGER)]) == 0
    said = capsys.readouterr().out
    assert "9 prompts of own" in said
    assert "note: 3 of 12 prompts are not compared, which may favour one side: own failed on 3 (no content" in said
    assert "3 of 12 prompts that the baseline answers have no answer" in caplog.text, "12 of 30 were asked"
    words = ["--model", own[0], "--questions", "prompts.jsonl", "--baseline", base, *judge(LONGER), "-o", "own.json"]
    assert main(["eval", "pairwise", *words]) == 0
    assert "own failed on 3 (no content" in caplog.text


def test_a_judge_that_is_mostly_unread_names_no_winner(server, capsys) -> None:
    base, own = answers("base", 40), answers("own", 40)
    server.answer = lambda body: (
        f"[[{'B' if str(body).index('base') < str(body).index('own') else 'A'}]]"
        if any(f"Question {n}?" in str(body) for n in range(12))
        else "I cannot say."
    )
    words = ["--judge", "j", "--judge-endpoint", server.url]
    assert main(["versus", base, own, *words]) == 0
    said = capsys.readouterr()
    assert "56 of 80 replies hold no verdict; the first ends in 'I cannot say.'" in said.err
    assert "who wins, own or base, is not known: 56 of 80 verdicts of j could not be read" in said.out
    assert "beats" not in said.out
    assert main(["compare", "versus/versus.json"]) == 0
    assert "beats" not in capsys.readouterr().out


def test_the_page_of_two_has_their_names_and_every_note(capsys) -> None:
    base, own = answers("base", 20), answers("own", 20, finished=False)
    assert main(["versus", base, own, *judge(LONGER)]) == 0
    page = Path("versus/comparison.html").read_text()
    assert "<h1>own against base</h1>" in page
    assert "100 % of the answers of own are cut at the longest answer" in page
    assert main(["compare", "versus/versus.json"]) == 0
    assert "note: 100 % of the answers of own are cut at the longest answer" in capsys.readouterr().out


def test_a_single_grade_leads_nowhere(capsys) -> None:
    """It may be the highest by chance alone; of several graded ones the best is named, with its interval."""
    rows = [
        {"model": model, "id": str(n), "score": score + n % 2}
        for model, count, score in (("one", 1, 9), ("good", 20, 6), ("fair", 20, 5), ("poor", 20, 4))
        for n in range(count)
    ]
    write("grades.jsonl", rows)
    assert main(["eval", "grade", "--verdicts", "grades.jsonl", "--output", "grades.json"]) == 0
    assert capsys.readouterr().out.startswith("good has the highest rating: 6.50 (95 % interval ")
    assert main(["compare", "grades.json"]) == 0
    assert "good has the highest rating: 6.50 (95 % interval " in capsys.readouterr().out
    assert ">6.5<small>rating: good" in Path("comparison/comparison.html").read_text()


def test_no_judge_and_two_are_told_apart(capsys) -> None:
    base, own = answers("base", 3), answers("own", 3)
    assert main(["versus", base, own]) == 2
    assert "Say who judges: --judge NAME" in capsys.readouterr().err
    assert main(["versus", base, own, "--judge", "a", "--judge", "b"]) == 2
    assert "Give --judge once" in capsys.readouterr().err


def test_one_prompt_is_no_prompts(capsys) -> None:
    base, own = answers("base", 1), answers("own", 1)
    assert main(["versus", base, own, *judge(LONGER)]) == 0
    said = capsys.readouterr().out
    assert "1 prompt is too few" in said
    assert "1 prompts" not in said
