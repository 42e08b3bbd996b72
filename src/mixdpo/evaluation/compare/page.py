"""The page of a comparison: results, differences, and answers to read side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixdpo.common import charts
from mixdpo.common.pages import render_page

Place = dict[str, float]


def comparison_page(sections: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        sections: of each benchmark `name`, `axis`, `points` (as figures take them), `table` and `differences`
            (tables with headings and rows), `gains` (the differences themselves), `notes` and `sources`.
        readings: of each benchmark with texts or scores by prompt: `name`, `models`, `prompts`, `of`.
    """
    return render_page(
        "mixdpo.evaluation.compare",
        "comparison",
        readings,
        {
            "sections": [_drawn(section) for section in sections],
            "models": len({point["name"] for section in sections for point in section["points"]}),
            "readable": bool(readings),
        },
        {"length_chart": charts.length_chart},
    )


def _drawn(section: Mapping[str, Any]) -> dict[str, Any]:
    """Add where the bars of intervals begin and end, as shares of the width."""
    points = section["points"]
    known = [value for point in points for value in (point["value"], point["low"], point["high"]) if value is not None]
    low, high = min(known), max(known)
    bars = [_place(_or(point["low"], point), point["value"], _or(point["high"], point), low, high) for point in points]
    gain_bars = []
    for rows in section["gains"]:
        reach = max((abs(end) for one in rows for end in (one.gain.low, one.gain.high)), default=0.0) or 1.0
        gain_bars.append([_place(one.gain.low, one.gain.estimate, one.gain.high, -reach, reach) for one in rows])
    return {**section, "bars": bars, "gain_bars": gain_bars, "range": (low, high) if high > low else None}


def _or(end: float | None, point: Mapping[str, Any]) -> float:
    return float(point["value"] if end is None else end)


def _place(low: float, value: float, high: float, start: float, stop: float) -> Place:
    shares: Iterable[float] = ((one - start) / (stop - start or 1) for one in (low, value, high))
    return dict(zip(("low", "value", "high"), (round(share, 4) for share in shares), strict=True))
