"""The audit's section on hard pairs: the advice of `mixdpo advise`, or what it lacks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mixdpo import advise, audit, score
from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.cli.main import main
from preferences import clean_rows, loaded


def rows(n: int = 200, **columns: Any) -> list[dict[str, Any]]:
    """Pairs of which a fifth is tied; columns are functions of a pair's number."""
    found = clean_rows(n)
    for number, row in enumerate(found):
        if number % 5 == 0:
            row["score_chosen"] = row["score_rejected"]
        row |= {name: of(number) for name, of in columns.items()}
    return found


def section_of(report: Any, tmp_path: Any) -> str:
    page = report.save(tmp_path / "report").read_text(encoding="utf-8")
    return page[page.index('<section id="hard">') : page.index('<section id="length">')]


def test_it_is_the_advice(tmp_path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    quality = {
        "quality/start/chosen": lambda number: 1.5 + noise[number],
        "quality/trained/chosen": lambda number: -0.5 - noise[number],
    }
    pairs = loaded(tmp_path, rows(**quality))
    report = audit(pairs)
    figures = report.figures["advice"]
    assert figures["problem"] is None
    advice = advise(score(pairs, "rating")).to_dict()
    assert {name: figures[name] for name in advice} == advice
    assert figures["parts"][0]["route"] == "drop"
    assert figures["parts"][0]["part"]["surplus"]["estimate"] == pytest.approx(-0.25, abs=0.03)
    section = section_of(report, tmp_path)
    assert "<b>drop</b>" in section
    assert figures["sentences"]["total"] in section
    saved = json.loads((tmp_path / "report" / "report.json").read_text())
    assert saved["advice"]["parts"] == json.loads(json.dumps(figures["parts"]))


def test_it_says_what_it_lacks(tmp_path) -> None:
    section = section_of(audit(loaded(tmp_path, rows())), tmp_path)
    assert "not known" in section
    assert "mixdpo rate PAIRS --against" in section
    assert "`" not in section


def test_pairs_without_a_margin_are_left_out(tmp_path) -> None:
    given = {"margin/judge": lambda number: None if number % 4 == 1 else float(number)}
    report = audit(loaded(tmp_path, rows(**given)), settings=AuditSettings(metric="judge"))
    assert sum(one["part"]["pairs"] for one in report.figures["advice"]["parts"]) == 150


def test_margins_that_allow_of_none_are_named(capsys, tmp_path) -> None:
    pairs = loaded(tmp_path, rows(**{"margin/embedding": lambda number: float(number)}))
    report = audit(pairs, settings=AuditSettings(metric="embedding"))
    assert "embedding" in report.figures["advice"]["problem"]
    assert "No advice" in section_of(report, tmp_path)
    without = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows()]
    report = audit(loaded(tmp_path, without, "unrated"))
    assert report.figures["advice"] is None
    assert "No advice without margins" in section_of(report, tmp_path)
    given = [str(tmp_path / "pairs.parquet"), "--output", str(tmp_path / "report")]
    assert main(["audit", *given]) == 0
    assert " % of the pairs are hard" in capsys.readouterr().out
    assert main(["audit", *given, "--audit.metric", "embedding"]) == 0
    assert "hard pairs: no advice" in capsys.readouterr().out
