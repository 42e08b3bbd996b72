"""What a result of an evaluation comes to, part by part, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mixdpo.common.notebook import notebook_html
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import Benchmark, Record
from mixdpo.evaluation.difference_tables import difference_notes, differences_in, differences_of
from mixdpo.evaluation.sentences import clear_sentence, leader_sentence
from mixdpo.evaluation.unread import is_mostly_unread, unread_notes


class EvaluationResult(dict[str, Any]):
    """The content of a result file."""

    def __repr__(self) -> str:
        return f"<EvaluationResult of {self['benchmark']}: {', '.join(self['models'])}>"

    def _repr_html_(self) -> str:
        """Show the table, the differences and the notes in a notebook."""
        from mixdpo.evaluation.benchmarks import benchmark_of  # which are built on what this module is used by

        benchmark = benchmark_of(self["benchmark"])
        parts = ["of a benchmark that this version does not know"] if benchmark is None else shown(benchmark, self)
        return notebook_html(f"{self['benchmark']}: {', '.join(self['models'])}", *parts)


def shown(benchmark: Benchmark, result: Record) -> list[str | TextTable]:
    """Return what a result comes to, differences on the same prompts first, then each model's figures and notes."""
    differences = differences_of(result, benchmark.metrics.label(benchmark.metrics.headlines[0]))
    paired: list[str | TextTable] = [] if differences is None else [differences, difference_notes(result)]
    said = benchmark.sentences_of(result)
    if benchmark.sentences is None and not said:
        said = list(_leading(benchmark, result))
    because = result.get("comparable", {}).get("because", [])
    return [
        *said,
        *(f"note: {line}" for line in benchmark.warnings(result)),
        *paired,
        benchmark.table(result),
        *(f"note: {line}" for line in unread_notes(result["models"])),
        *(f"not comparable with published numbers: {reason}" for reason in because),
        *(f"note: {model}: {flag}" for model, record in result["models"].items() for flag in record.get("flags", [])),
    ]


def _leading(benchmark: Benchmark, result: Record) -> Iterator[str]:
    """Yield which of several models is first, and how many of their differences are clear."""
    from mixdpo.evaluation.compare.result_metrics import read_metrics  # which knows all benchmarks

    names = benchmark.metrics
    found = {
        name: read_metrics(one)
        for name, one in result["models"].items()
        if not is_mostly_unread(one) and one.get("n_prompts", 2) > 1 and not one.get("flags")
    }
    metric = next((one for one in names.headlines if found and all(one in own.values for own in found.values())), None)
    if metric is None or len(found) < 2:
        return
    lowest = metric in names.lower_is_better
    best = sorted(found, key=lambda name: found[name].values[metric], reverse=not lowest)[0]
    large = max(abs(own.values[metric]) for own in found.values()) >= 20
    first = leader_sentence(
        best, names.words(metric), found[best].values[metric], found[best].intervals.get(metric),
        benchmark.baseline(result), unit=names.unit(metric), digits=1 if large else 2, lowest=lowest,
    )  # fmt: skip
    differences = differences_in(result)
    yield "; ".join([first, *([clear_sentence(differences, names.words(metric))] if differences else [])])
