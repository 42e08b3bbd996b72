"""The folder of a comparison: tables, figures and the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixdpo.common import charts
from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import atomic_path, write_json
from mixdpo.common.pages import render_page
from mixdpo.common.tables import TextTable, as_latex, as_markdown, as_text, one_line
from mixdpo.evaluation.compare.collect import BenchmarkResults
from mixdpo.evaluation.compare.figures import forest_figure, length_figure
from mixdpo.evaluation.compare.sentences import leader, sentences, warnings
from mixdpo.evaluation.compare.sources import TRAINING
from mixdpo.evaluation.compare.tables import all_tables
from mixdpo.evaluation.compare.transcripts import readings
from mixdpo.evaluation.difference_tables import paired_method

_ENDINGS = ("png", "svg", "pdf")


def save_comparison(comparison: Sequence[BenchmarkResults], folder: Path) -> Path:
    """Write `comparison.txt`, `.md`, `.tex`, `.json` and `.html`, and of every benchmark two figures as PNG, SVG, PDF.

    Returns:
        The path of the page.
    """
    _write(folder / "comparison.txt", as_texts(comparison, as_text, "note: {}"))
    _write(folder / "comparison.md", as_texts(comparison, as_markdown, "- {}", "## {}\n"))
    _write(folder / "comparison.tex", "% needs \\usepackage{booktabs}\n\n" + as_texts(comparison, as_latex, "% {}"))
    write_json(folder / "comparison.json", {"benchmarks": [as_record(one) for one in comparison]})
    for one in comparison:
        points = [as_point(one, model) for model in one.models]
        even = one.names.even.get(one.headline)
        stem = re.sub(r"\W+", "-", one.name).strip("-")
        save_figure(forest_figure(points, _axis(one), even), folder / f"forest-{stem}", _ENDINGS)
        if sum(point["length"] is not None for point in points) > 1:
            save_figure(length_figure(points, _axis(one), even), folder / f"length-{stem}", _ENDINGS)
    return save_page(comparison, folder)


def save_page(comparison: Sequence[BenchmarkResults], folder: Path) -> Path:
    """Write `comparison.html` alone, and return its path."""
    page = folder / "comparison.html"
    _write(page, comparison_page([as_section(one) for one in comparison], readings(comparison)))
    return page


def as_texts(
    comparison: Sequence[BenchmarkResults], render: Callable[[TextTable], str], note: str, heading: str = ""
) -> str:
    """Return all tables in one form, each benchmark's notes after its tables."""
    parts = []
    for one, tables in all_tables(comparison):
        for table in tables:
            parts += [heading.format(one_line(table.title))] if heading else []
            parts.append(render(table))
        if one.notes:
            parts.append("\n".join(note.format(one_line(text)) for text in one.notes) + "\n")
    return "\n".join(parts)


def as_record(results: BenchmarkResults) -> dict[str, Any]:
    """Return everything but the texts, for `comparison.json`."""
    return {
        "benchmark": results.name,
        "headline": results.headline,
        "models": {
            model: {
                "source": str(result.source),
                "metrics": dict(result.metrics.values),
                "intervals": {name: list(ends) for name, ends in result.metrics.intervals.items()},
                "flags": list(result.flags),
            }
            for model, result in results.models.items()
        },
        "differences": {metric: [asdict(one) for one in rows] for metric, rows in results.differences.items()},
        "notes": list(results.notes),
    }


def as_point(results: BenchmarkResults, model: str) -> dict[str, Any]:
    """Return what a figure draws of a model: name, value, low and high (None without interval), length or
    None, and whether it shows signs of a degenerate model."""
    metrics = results.models[model].metrics
    low, high = metrics.intervals.get(results.headline, (None, None))
    return {
        "name": one_line(model),
        "value": metrics.values[results.headline],
        "low": low,
        "high": high,
        "length": metrics.values.get("avg_length"),
        "flagged": bool(results.models[model].flags) or model in results.unread,
    }


def as_section(results: BenchmarkResults) -> dict[str, Any]:
    """Return what the page shows of a benchmark."""
    (_, tables), *_ = all_tables([results])
    return {
        "name": results.name,
        "axis": _axis(results),
        "words": results.names.words(results.headline),
        "unit": results.names.unit(results.headline),
        "points": [as_point(results, model) for model in results.models],
        "best": as_point(results, leader(results)),
        "table": tables[0],
        "differences": tables[1:],
        "gains": list(results.differences.values()),
        "methods": [paired_method(rows, results.grouped) for rows in results.differences.values()],
        "even": results.names.even.get(results.headline),
        "baseline": results.baseline,
        "is_training": results.name == TRAINING,
        "sentences": [re.sub("^no difference", "No difference", one) for one in sentences(results)],
        "notes": [*warnings(results), *results.notes],
        "unreadable": not any(one.items.transcripts for one in results.models.values()),
        "sources": sorted({str(result.source) for result in results.models.values()}),
    }


def _axis(results: BenchmarkResults) -> str:
    return results.names.label(results.headline)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


Place = dict[str, float]


def comparison_page(sections: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> str:
    """Return the page.

    Args:
        sections: of each benchmark what `as_section` returns.
        readings: of each benchmark with texts or scores by prompt: `name`, `models`, `prompts`, `of`.
    """
    return render_page(
        "mixdpo.evaluation.compare",
        "comparison",
        readings,
        {
            "sections": [_drawn(section) for section in sections],
            "heading": _heading(sections),
            "readable": bool(readings),
            "primary": [one for one in sections if not one["is_training"]] or sections,
        },
        {"length_chart": charts.length_chart},
    )


def _heading(sections: Sequence[Mapping[str, Any]]) -> str:
    """Return who is compared where these are two, else how many models and benchmarks there are."""
    names = list(dict.fromkeys(point["name"] for section in sections for point in section["points"]))
    of_two = [*names, *dict.fromkeys(section["baseline"] for section in sections if section["baseline"])]
    if len(of_two) == 2:
        return " against ".join(of_two)
    models, benchmarks = len(names), len(sections)
    return (
        f"{models:,} {'model' if models == 1 else 'models'}, "
        f"{benchmarks:,} {'benchmark' if benchmarks == 1 else 'benchmarks'}"
    )


def _drawn(section: Mapping[str, Any]) -> dict[str, Any]:
    """Add where the bars of intervals begin and end, as shares of the width."""
    points = section["points"]
    known = [value for point in points for value in (point["value"], point["low"], point["high"]) if value is not None]
    even = section["even"]
    low, high = min(known + [even] * (even is not None)), max(known + [even] * (even is not None))
    bars = [_place(_or(point["low"], point), point["value"], _or(point["high"], point), low, high) for point in points]
    gain_bars = []
    for rows in section["gains"]:
        reach = max((abs(end) for one in rows for end in (one.gain.low, one.gain.high)), default=0.0) or 1.0
        gain_bars.append([_place(one.gain.low, one.gain.estimate, one.gain.high, -reach, reach) for one in rows])
    even_at = None if even is None else round((even - low) / (high - low or 1), 4)
    return {
        **section, "bars": bars, "gain_bars": gain_bars, "range": (low, high) if high > low else None,
        "even_at": even_at,
    }  # fmt: skip


def _or(end: float | None, point: Mapping[str, Any]) -> float:
    return float(point["value"] if end is None else end)


def _place(low: float, value: float, high: float, start: float, stop: float) -> Place:
    shares: Iterable[float] = ((one - start) / (stop - start or 1) for one in (low, value, high))
    return dict(zip(("low", "value", "high"), (round(share, 4) for share in shares), strict=True))
