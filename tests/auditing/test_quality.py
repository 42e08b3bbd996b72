"""The audit's section on how good answers are against a policy's: its figures and its place on the page."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from mixdpo import audit
from mixdpo.auditing.quality import BUCKETS, quality_figures
from mixdpo.common.statistics import by_margin
from mixdpo.pairs.quality import Quality
from preferences import HOSTILE, clean_rows, loaded


def quality_of_margins(margin: np.ndarray, known: np.ndarray) -> Quality:
    """Answers whose quality grows with the margin, where it is known."""
    chosen = np.where(known, margin - 1, np.nan)
    return Quality(
        chosen=chosen,
        rejected=chosen - margin,
        chosen_wins=np.where(known, (margin > 1).astype(float), np.nan),
        rejected_wins=np.where(known, 0.0, np.nan),
    )


def test_buckets_are_of_equal_size_and_keep_equal_margins_together() -> None:
    margin = np.array([0.0, 3.0, 1.0, 2.0, np.nan, 4.0])
    assert [rows.tolist() for rows in by_margin(margin, 5)] == [[0], [2], [3], [1], [5]]
    assert [rows.tolist() for rows in by_margin(margin, 2)] == [[0, 2], [1, 3, 5]]
    verdicts = np.array([1.0, -1.0, 1.0, 0.0, 1.0, 1.0])
    assert [rows.tolist() for rows in by_margin(verdicts, 5)] == [[1], [3], [0, 2, 4, 5]]
    assert by_margin(np.full(4, 2.0), 5) == by_margin(np.full(4, np.nan), 5) == []


def test_figures_are_means_with_intervals_by_margin() -> None:
    rng = np.random.default_rng(0)
    margin = rng.uniform(0, 3, 200)
    known = rng.uniform(size=200) < 0.7
    figures = quality_figures(quality_of_margins(margin, known), margin)
    assert (figures["known"], figures["unknown"]) == (known.sum(), (~known).sum())
    chosen = margin[known] - 1
    found = figures["chosen"]
    assert found["value"] == pytest.approx(chosen.mean())
    low, high = scipy.stats.t.interval(0.95, len(chosen) - 1, chosen.mean(), scipy.stats.sem(chosen))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert len(figures["buckets"]) == BUCKETS
    assert sum(one["pairs"] for one in figures["buckets"]) == 200
    assert sum(one["known"] for one in figures["buckets"]) == known.sum()
    assert [one["low"] for one in figures["buckets"]] == sorted(one["low"] for one in figures["buckets"])
    hardest = figures["buckets"][0]
    inside = known & (margin >= hardest["low"]) & (margin <= hardest["high"])
    assert hardest["chosen"]["value"] == pytest.approx((margin[inside] - 1).mean())
    # That no one of so many was better does not say that none ever is.
    assert hardest["chosen_wins"]["value"] == hardest["chosen_wins"]["low"] == 0.0
    assert 0 < hardest["chosen_wins"]["high"] < 0.2


def test_without_margins_or_columns_there_is_less(tmp_path) -> None:
    figures = quality_figures(quality_of_margins(np.arange(4.0), np.arange(4) < 1), None)
    assert figures["buckets"] == []
    assert figures["chosen"] == {"value": -1.0, "low": None, "high": None, "n": 1}
    report = audit(loaded(tmp_path, clean_rows(20)))
    assert report.figures["quality"] is None
    assert "mixdpo rate PAIRS --against" in report.save(tmp_path / "report").read_text()


def test_the_page_shows_it_and_takes_names_as_text(tmp_path) -> None:
    rows = clean_rows(60)
    name = HOSTILE.replace("/", "")
    for number, row in enumerate(rows):
        margin = row["score_chosen"] - row["score_rejected"]
        row[f"quality/{name}/chosen"] = margin - 1 if number % 4 else None
        row[f"quality/{name}/chosen_wins"] = 0.5 if number % 4 else None
    report = audit(loaded(tmp_path, rows))
    figures = report.figures["quality"][name]
    assert (figures["known"], figures["unknown"]) == (45, 15)
    assert figures["rejected"]["n"] == 0
    page = report.save(tmp_path / "report").read_text()
    section = page[page.index('<section id="quality">') : page.index('<section id="length">')]
    assert "not known of 15" in section
    assert "margin/rating" in section
    assert "<img" not in section
