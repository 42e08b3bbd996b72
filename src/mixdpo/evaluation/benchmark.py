"""What a benchmark is: how models are measured, scored and shown. The loop in `evaluate` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mixdpo.common.tables import TextTable, interval_text, value_text
from mixdpo.evaluation.difference_tables import difference_sentences
from mixdpo.evaluation.items import ModelItems
from mixdpo.evaluation.unread import NOT_RANKED, is_mostly_unread
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.task import JudgeTask

Record = Mapping[str, Any]
"""The content of a result file, or what it says of one model."""


class Say(Protocol):
    """Tells a person how far it is, or what went wrong; `click.echo` does."""

    def __call__(self, message: str, *, err: bool = False) -> None:
        """Write a line, `err` to the standard error."""


@dataclass(frozen=True, kw_only=True)
class MetricNames:
    """What the metrics of a benchmark are called and how they are shown.

    Attributes:
        headlines: metrics that models are ranked by; the first there is counts.
        labels: what tables call a metric, where that is not its name.
        shown: metrics without an interval that a table shows as well.
        even: of a metric, the value at which a model does as well as what it was compared with.
        lower_is_better: metrics that are better if they are smaller.
    """

    headlines: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    even: Mapping[str, float] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()

    def label(self, metric: str) -> str:
        """Return what tables call a metric."""
        return self.labels.get(metric, metric.replace("_", " "))

    def words(self, metric: str) -> str:
        """Return what sentences call a metric, where the unit stands behind the number."""
        return self.label(metric).removesuffix(", %")

    def unit(self, metric: str) -> str:
        """Return what stands behind a number of a metric."""
        return " %" if self.label(metric).endswith(", %") else ""


WIN_RATE = MetricNames(headlines=("win_rate",), labels={"win_rate": "win rate, %"}, even={"win_rate": 50.0})


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a benchmark found.

    Attributes:
        models: the record of each model.
        items: the items of each model.
        settings: of the scoring.
        others: what else the result file says, such as differences.
        name: what the result calls the benchmark; None for the first of `Benchmark.stored_as`.
    """

    models: Mapping[str, Record]
    items: Mapping[str, ModelItems]
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What all benchmarks have.

    Attributes:
        help: of the command.
        stored_as: what result files call it.
        options: dataclass of its own options, from which those of the command line are made.
        metrics: how its metrics are shown.
        table: from the content of a result file to the table that is printed.
        sentences: from the same to what it comes to, in a sentence for each model or difference; None for the
            difference of two models.
        warnings: from the same to what a reader must be warned of.
        baseline: from the same to what models were compared with; None for nothing.
        in_folder: what the folder of a run holds of this benchmark, None for nothing.
    """

    help: str
    stored_as: tuple[str, ...]
    options: type[Any]
    metrics: MetricNames
    table: Callable[[Record], TextTable]
    sentences: Callable[[Record], list[str]] | None = None
    warnings: Callable[[Record], list[str]] = lambda record: []
    baseline: Callable[[Record], str | None] = lambda record: None
    in_folder: Callable[[Path], Scored | None] = lambda folder: None

    def sentences_of(self, record: Record) -> list[str]:
        """Return what a result comes to, in sentences."""
        if self.sentences is not None:
            return self.sentences(record)
        metric = self.metrics.headlines[0]
        return difference_sentences(record, self.metrics.words(metric), self.metrics.unit(metric))


@dataclass(frozen=True, kw_only=True)
class MeasuredBenchmark(Benchmark):
    """A benchmark without a judge; `measure` gets the options and the result's file, beside which it may keep more."""

    measure: Callable[[Any, Path, Say], Scored]


@dataclass(frozen=True, kw_only=True)
class JudgedBenchmark(Benchmark):
    """A benchmark whose answers a judge compares or grades.

    Its options with `judge_only` in their metadata say what the judge is given, the others how verdicts are scored.

    Attributes:
        judge_prompt: where the judge prompt can be had, or what it must hold.
        task: what a judge is to do.
        score: from files of verdicts to results; of a run that was just judged it gets the task's settings.
        items: the items of stored verdicts, with the options that `options_of` finds.
        options_of: from the content of a result file to the options it was made with, as far as `items` reads them.
        without_effect: options (by field) that have none beside the others, with the reason; it is told whether
            verdicts are stored already.
        check: raises `InputError` where something will be missing for the scores, before a judge is paid.
        several_judges: whether several files of verdicts are scored together.
    """

    judge_prompt: str
    task: Callable[[AnswerSources, Any], JudgeTask]
    score: Callable[[Sequence[Path], Any, Record | None], Scored]
    items: Callable[[Sequence[Path], Any], dict[str, ModelItems]]
    options_of: Callable[[Record], Any] = lambda record: None
    without_effect: Callable[[Any, bool], Iterator[tuple[str, Collection[str]]]] = lambda options, stored: iter(())
    check: Callable[[Any], object] = lambda options: None
    several_judges: bool = False


def ranked_scores(
    models: Mapping[str, Record], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    """Return the scores of models that are part of a ranking, for their differences."""
    return {model: own for model, own in scores.items() if model in models and not is_mostly_unread(models[model])}


@dataclass(frozen=True)
class Column:
    """A column of a table of models: its heading, and the cell of a model's record."""

    heading: str
    cell: Callable[[Record], str]

    @classmethod
    def number(cls, heading: str, metric: str) -> Column:
        """Return a column of a metric."""
        return cls(heading, lambda one: value_text(one[metric]))

    @classmethod
    def interval(cls, heading: str, metric: str, digits: int = 1) -> Column:
        """Return a column of an interval."""
        return cls(heading, lambda one: interval_text(one[metric], digits))

    @classmethod
    def count(cls, heading: str, metric: str) -> Column:
        """Return a column of a whole number."""
        return cls(heading, lambda one: f"{one[metric]:,}")


def models_table(title: str, record: Record, metric: str, columns: Sequence[Column]) -> TextTable:
    """Return a table with a row for each model, the one with the largest `metric` first.

    Models whose verdicts mostly could not be read stand last, and are no part of the ranking.
    """
    ranked = sorted(record["models"].items(), key=lambda item: (is_mostly_unread(item[1]), -item[1][metric]))
    rows = [
        [f"{model}{NOT_RANKED if is_mostly_unread(one) else ''}", *(column.cell(one) for column in columns)]
        for model, one in ranked
    ]
    return TextTable(title, ["model", *(column.heading for column in columns)], rows)
