"""Files of verdicts whose rows come twice, or are all alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from mixdpo.cli.main import main

Write = Callable[..., str]


@pytest.mark.parametrize(
    ("bench", "row"),
    [
        ("arena-hard", {"model": "own", "question_id": "q0", "game1": "A>B", "game2": "A>B"}),
        ("arena-hard", {"model": "own", "question_id": "q0", "games": [{"score": "A>B"}, {"score": "A>B"}]}),
        ("pairwise", {"model": "own", "id": "q0", "game1": "A>B", "game2": "A>B"}),
        ("grade", {"model": "own", "id": "q0", "score": 5}),
    ],
)
def test_verdicts_that_come_twice_are_refused(bench: str, row: dict[str, Any], jsonl: Write, tmp_path: Path, capsys):
    output = str(tmp_path / "out.json")
    other = {**row, "question_id": 82} if "question_id" in row else {**row, "id": "q1"}
    assert main(["eval", bench, "--verdicts", jsonl([row, other, row]), "--output", output]) == 2
    error = capsys.readouterr().err
    assert "row 3: a second verdict" in error


def test_results_that_are_all_equal_have_no_interval_of_no_width(jsonl: Write, tmp_path: Path) -> None:
    wilson = stats.binomtest(5, 5).proportion_ci(method="wilson")
    expected = pytest.approx([100 * wilson.low, 100.0])

    def scored(bench: str, rows: list[dict[str, Any]], *words: str) -> dict[str, Any]:
        output = tmp_path / "out.json"
        assert main(["eval", bench, "--verdicts", jsonl(rows), *words, "--output", str(output)]) == 0
        return json.loads(output.read_text())["models"]["own"]

    games = [{"model": "own", "id": f"q{n}", "game1": "B>A", "game2": "A>B"} for n in range(5)]
    assert scored("pairwise", games)["win_rate_interval"] == expected
    assert scored("pairwise", games[:1])["win_rate_interval"] is None
    arena = [{**row, "question_id": row["id"]} for row in games]
    assert scored("arena-hard", arena)["prompt_interval"] == expected
    assert scored("arena-hard", arena[:1])["prompt_interval"] is None
    wins = [{"model": "own", "preference": 2, "instruction_index": n, "len_1": 1, "len_2": 2 + n} for n in range(5)]
    assert scored("alpaca-eval", wins, "--no-length-control")["win_rate_interval"] == expected
    ratings = [{"model": "own", "question_id": n, "turn": t, "judgment": "[[10]]"} for n in range(5) for t in (1, 2)]
    assert scored("mt-bench", ratings)["interval"] == pytest.approx([10 * wilson.low, 10.0])
    assert scored("mt-bench", ratings[:2])["interval"] is None
    grades = [{"model": "own", "id": f"q{n}", "score": 7} for n in range(5)]
    assert scored("grade", grades)["average_interval"] is None


def test_turns_that_were_rated_twice_are_counted(jsonl: Write, tmp_path: Path) -> None:
    """Published means have them."""
    rated = [(81, 1, 5), (81, 2, 5), (82, 1, 9), (82, 1, 9), (82, 2, 7)]
    rows = [{"model": "own", "question_id": q, "turn": t, "judgment": f"[[{rating}]]"} for q, t, rating in rated]
    output = tmp_path / "out.json"
    assert main(["eval", "mt-bench", "--verdicts", jsonl(rows), "--output", str(output)]) == 0
    own = json.loads(output.read_text())["models"]["own"]
    assert (own["average"], own["n"], own["n_repeated"]) == (7, 5, 1)
