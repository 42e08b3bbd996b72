"""Whoever works in a notebook: objects show themselves, and the notebooks of examples/ run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import mixdpo
from mixdpo.common.notebook import MOST_ROWS, notebook_html
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmarks import preferences
from mixdpo.evaluation.evaluate import evaluate
from mixdpo.evaluation.result import EvaluationResult
from pages import ROOT
from synthetic import chat_rows

HOSTILE = "<img src=x onerror=alert(1)>"
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
MOST_CHARACTERS = 6000


class Shown(HTMLParser):
    """What a reader of HTML sees: the texts of cells by row, and all other texts; fails at tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.tags: list[str] = []
        self.used: set[str] = set()
        self.feed(html)
        assert self.tags == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.used.add(tag)
        assert {name for name, _ in attrs} <= {"style"}
        assert "color" not in str(attrs), "a notebook's theme decides"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "br":
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.text += data + "\n"


def shown(value: Any) -> Shown:
    html = value._repr_html_()
    assert type(html) is str
    assert len(html) < MOST_CHARACTERS
    assert len(repr(value)) < 300
    seen = Shown(html)
    assert seen.used <= {"div", "b", "table", "caption", "thead", "tbody", "tr", "th", "td", "br"}
    return seen


@pytest.fixture(scope="module")
def pairs() -> mixdpo.PairDataset:
    rows = chat_rows(60)
    return mixdpo.score(mixdpo.load_pairs([*rows, *rows[:20]]))


def test_a_plan_shows_its_routes(pairs: mixdpo.PairDataset) -> None:
    plan = mixdpo.make_plan(pairs, threshold={"hardest": 0.25})
    seen = shown(plan)
    assert "Plan: easy_to_hard, 80 pairs" in seen.text
    assert [row[:3] for row in seen.rows] == [
        ["route", "pairs", "share"], ["preference", "60", "75.0 %"], ["sft", "20", "25.0 %"],
    ]  # fmt: skip
    assert repr(plan) == "<Plan of 80 pairs, easy_to_hard: 60 preference, 20 sft>"
    shown(mixdpo.make_plan(pairs.remove_columns("margin/rating"), "dpo"))


def test_an_audit_shows_its_findings(pairs: mixdpo.PairDataset) -> None:
    report = mixdpo.audit(pairs, name=HOSTILE)
    seen = shown(report)
    assert HOSTILE in seen.text
    assert [row[0] for row in seen.rows[1:]] == [finding.title for finding in report.findings]
    assert "duplicates" in repr(report)
    assert "no finding" in shown(replace(report, findings=[])).text


def test_advice_shows_its_routes(pairs: mixdpo.PairDataset) -> None:
    advice = mixdpo.advise(pairs)
    seen = shown(advice)
    assert [row[4] for row in seen.rows[1:]] == [one.route for one in advice.parts]


def test_a_long_table_says_how_much_is_left_out() -> None:
    table = TextTable(HOSTILE, ["name", "number"], [[HOSTILE, str(n)] for n in range(MOST_ROWS + 8)])
    seen = Shown(notebook_html("a", table, HOSTILE))
    assert len(seen.rows) == 1 + MOST_ROWS + 1
    assert seen.rows[-1] == ["... 8 more", ""]
    assert seen.rows[1] == [HOSTILE, "0"]
    assert seen.text.count(HOSTILE) == 2


def test_a_comparison_shows_its_tables(tmp_path: Path) -> None:
    for place, name in enumerate([HOSTILE, "second"]):
        metrics = {"accuracy": 50.0 + place, "accuracy_interval": [40.0, 60.0], "n": 40}
        record = {"benchmark": "preferences", "settings": {}, "models": {name: metrics}}
        (tmp_path / f"{place}.json").write_text(json.dumps(record))
    comparison = mixdpo.compare([tmp_path / "0.json", tmp_path / "1.json"])
    seen = shown(comparison)
    assert [row[0] for row in seen.rows] == ["model", "second", HOSTILE], "the better one first"
    assert [row[1] for row in seen.rows[1:]] == ["51.0 [40.0, 60.0]", "50.0 [40.0, 60.0]"]
    assert repr(comparison) == f"<Comparison: preferences of second, {HOSTILE}>"
    page = comparison.save(tmp_path / "comparison")
    assert HOSTILE not in page.read_text(encoding="utf-8")


def test_a_result_shows_its_table(tokenizer: Any, tmp_path: Path, pairs: mixdpo.PairDataset) -> None:
    from mixdpo.data.data_settings import DataSettings
    from mixdpo.models.model_settings import ModelSettings
    from tiny import saved, tiny_llama

    pairs.select(range(8)).to_parquet(tmp_path / "held_out.parquet")
    model = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    options = preferences.PreferenceOptions(
        pairs=DataSettings(path=str(tmp_path / "held_out.parquet")), model=ModelSettings(name_or_path=model)
    )
    result = evaluate(preferences.BENCHMARK, options, tmp_path / "out.json", say=lambda message, err=False: None)
    assert json.loads((tmp_path / "out.json").read_text()) == result
    seen = shown(result)
    assert f"preferences, {tmp_path.name}: 8 pairs" in seen.text
    assert seen.rows[-1][:2] == ["pairs", "8"]
    unknown = EvaluationResult(benchmark="other", models={HOSTILE: {}})
    assert "does not know" in shown(unknown).text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_as_executed(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    stored = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"Traceback|Warning|/home/|/root/|/work/|/tmp/|site-packages", stored)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    """What they show is of the same kinds as what is stored; figures differ a little between machines."""
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    from run_notebooks import run

    def kinds(cells: Iterable[Any]) -> list[list[list[str]]]:
        return [
            [sorted(output["data"]) for output in cell["outputs"] if output["output_type"] == "execute_result"]
            for cell in cells
            if cell["cell_type"] == "code"
        ]

    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert kinds(run(path, tmp_path)["cells"]) == kinds(stored)
    assert (tmp_path / "runs" / "notebook").is_dir()


def test_examples_lists_them_by_their_title(capsys: pytest.CaptureFixture[str]) -> None:
    from mixdpo.cli.main import main

    assert main(["examples"]) == 0
    assert re.search(r"audit_and_plan\.ipynb +Audit and plan\n", capsys.readouterr().out)
