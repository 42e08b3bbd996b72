"""Tables of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from mixdpo.common.tables import TextTable
from mixdpo.evaluation.compare.collect import BenchmarkResults
from mixdpo.evaluation.difference_tables import paired_table
from mixdpo.evaluation.statistics.paired import Difference
from mixdpo.evaluation.unread import NOT_RANKED


def summary_table(results: BenchmarkResults) -> TextTable:
    """Return the table of a benchmark: models by rank, metrics with their intervals, mean length."""
    lengths = [result.metrics.values.get("avg_length") for result in results.models.values()]
    with_length = any(length is not None for length in lengths)
    places = {metric: decimals(results, metric) for metric in results.shown}
    rows = []
    for (model, result), length in zip(results.models.items(), lengths, strict=True):
        cells = [
            written(result.metrics.values.get(metric), digits) + ends(result.metrics.intervals.get(metric), digits)
            for metric, digits in places.items()
        ]
        rows.append([model, *cells, *([written(length, 0)] if with_length else [])])
    headings = ["model", *map(results.names.label, results.shown), *(["mean length"] if with_length else [])]
    rows = [[f"{row[0]}{NOT_RANKED if row[0] in results.unread else ''}", *row[1:]] for row in rows]
    return TextTable(results.name, headings, rows)


def differences_table(results: BenchmarkResults, metric: str, differences: Sequence[Difference]) -> TextTable:
    """Return the table of paired differences of a metric; a model that all are compared with is in its title."""
    label, digits = results.names.label(metric), max(2, decimals(results, metric))
    return paired_table(f"{results.name}: differences on the same prompts", label, differences, digits)


def all_tables(comparison: Sequence[BenchmarkResults]) -> list[tuple[BenchmarkResults, list[TextTable]]]:
    """Return every table, by benchmark."""
    return [
        (one, [summary_table(one), *(differences_table(one, *item) for item in one.differences.items())])
        for one in comparison
    ]


def decimals(results: BenchmarkResults, metric: str) -> int:
    """Return with how many decimals a metric is written: one for percentages, two for smaller numbers."""
    values = [result.metrics.values.get(metric, 0.0) for result in results.models.values()]
    return 1 if max(map(abs, values)) >= 20 else 2


def written(value: float | None, digits: int, sign: str = "") -> str:
    """Write a number, with its sign always if that is `+`; a dash for none."""
    return "–" if value is None else f"{value:{sign},.{digits}f}".replace("-", "−")


def ends(interval: Sequence[float] | None, digits: int, sign: str = "") -> str:
    """Write an interval in brackets, nothing for none."""
    if interval is None:
        return ""
    return " [" + ", ".join(written(end, digits, sign) for end in interval) + "]"
