"""What a result of an evaluation comes to, part by part, in a terminal and in a notebook."""

from __future__ import annotations

from typing import Any

from mixdpo.common.notebook import notebook_html
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import Benchmark, Record
from mixdpo.evaluation.difference_tables import difference_notes, differences_of
from mixdpo.evaluation.unread import unread_notes


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
    because = result.get("comparable", {}).get("because", [])
    return [
        *benchmark.sentences_of(result),
        *(f"note: {line}" for line in benchmark.warnings(result)),
        *paired,
        benchmark.table(result),
        *(f"note: {line}" for line in unread_notes(result["models"])),
        *(f"not comparable with published numbers: {reason}" for reason in because),
        *(f"note: {model}: {flag}" for model, record in result["models"].items() for flag in record.get("flags", [])),
    ]
