"""Results that the version before stored (tests/fixtures/stored/README.md) are compared as that version did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixdpo.cli.main import main
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.compare.result_metrics import names_of
from mixdpo.evaluation.compare.sources import stored_items
from mixdpo.evaluation.items import Transcript, read_items

STORED = Path(__file__).parents[1] / "fixtures" / "stored"
AGAIN = {
    "alpaca-eval": ("alpaca-eval", "--gamed", "gamed.csv", "--difficulty", "difficulty.csv"),
    "arena-hard-v0.1": ("arena-hard", "--style", "arena-hard.style.csv"),
    "arena-hard-v2": ("arena-hard", "--style", "arena-hard.style.csv", "--version", "v2", "--category", "hard_prompt"),
    "mt-bench": ("mt-bench", "--questions", "mt-bench.questions.jsonl"),
    "pairwise": ("pairwise",),
    "grade": ("grade",),
}
"""The commands that made the results from stored verdicts."""


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    return tmp_path / "stored"


def same(found: Any, expected: Any) -> bool:
    """Whether two contents of JSON are equal, numbers to a relative 1e-9; today's may say more."""
    if isinstance(expected, dict) and expected.get("low", 0) == expected.get("high", 1):
        return found["low"] <= expected["low"] <= found["high"] and same(found["estimate"], expected["estimate"])
    if isinstance(expected, dict):
        return found.keys() >= expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list) and len(expected) == 2 and expected[0] == expected[1]:
        # An interval without width said that nothing can be otherwise; results that are all equal have one now.
        return found[0] <= expected[0] <= found[1]
    if isinstance(expected, list):
        return len(found) == len(expected) and all(same(*pair) for pair in zip(found, expected, strict=True))
    return found == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected)


@pytest.mark.slow
def test_comparisons_have_the_numbers_of_the_version_before(stored: Path) -> None:
    sources = json.loads((stored / "compare-sources.json").read_text())["sources"]
    assert main(["compare", *sources, "--output", "compared"]) == 0
    found = {one["benchmark"]: one for one in json.loads(Path("compared/comparison.json").read_text())["benchmarks"]}
    expected = {one["benchmark"]: one for one in json.loads(Path("compare-expected.json").read_text())["benchmarks"]}
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert list(found[name]["models"]) == list(one["models"]), "the best first"
        assert same(found[name], one), name


@pytest.mark.parametrize("name", AGAIN)
def test_items_of_stored_verdicts_are_those_of_the_score(stored: Path, name: str) -> None:
    """A result without items gets from its verdicts what scoring these again would write."""
    results = stored / "results"
    command, *words = AGAIN[name]
    given = [str(results / word) if word.endswith((".csv", ".jsonl")) else word for word in words]
    verdicts, output = results / f"{name}.verdicts.jsonl", stored / "again.json"
    assert main(["eval", command, "--verdicts", str(verdicts), *given, "--output", str(output)]) == 0
    before, after = (json.loads(path.read_text()) for path in (results / f"{name}.json", output))
    for one in before["models"].values() if command == "pairwise" else []:
        del one["win_rate_interval"]  # it was Student's, and is Wilson's
    assert same(after["models"], before["models"])
    items = read_items(read_table(stored / after["items"]))
    assert list(items) == list(after["models"])
    converted = stored_items(results / f"{name}.json", before)
    headline = names_of(after["benchmark"]).headlines[0]
    for model, own in items.items():
        texts = converted[model].transcripts
        assert own.transcripts == {id: one for id, one in texts.items() if one != Transcript()}
        (scores,) = own.scores.values()
        known = {id: value for id, value in scores.items() if np.isfinite(value)}
        assert own.scores.keys() == converted[model].scores.keys()
        assert known == {id: value for id, value in converted[model].scores[headline].items() if np.isfinite(value)}
        mean = np.average(list(known.values()), weights=[own.weights.get(id, 1.0) for id in known])
        assert mean == pytest.approx(after["models"][model][headline])


def test_items_of_earlier_versions_name_their_groups(stored: Path) -> None:
    for name, groups in (("demands", 10), ("preferences", 12), ("open-llm", 0)):
        path = stored / "results" / f"{name}.json"
        for own in stored_items(path, json.loads(path.read_text())).values():
            assert len(own.groups) == groups
