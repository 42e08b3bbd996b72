"""Metrics of result files: which numbers there are, their intervals, and which of them a table shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np

from mixdpo.evaluation.benchmark import MetricNames
from mixdpo.evaluation.benchmarks import BENCHMARKS, benchmark_of

IntervalEnds = tuple[float, float]

_OF_TRAINING: Final = MetricNames(
    headlines=("rewards/accuracies",),
    labels={"rewards/accuracies": "training accuracy", "train_loss": "loss, mean of all steps"},
    shown=(
        "loss", "rewards/margins", "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins",
        "displacement/chosen", "displacement/rejected",
    ),
    lower_is_better=("loss", "eval_loss", "train_loss"),
)  # fmt: skip
"""What training and its evaluation log."""
_NO_INTERVAL_NAMES: Final = ("interval", "prompt_interval")


@dataclass(frozen=True)
class Metrics:
    """The numbers of one model on one benchmark; nested ones are named by their path, such as `buckets.hard.accuracy`.

    Attributes:
        values: every number.
        intervals: of those that have one.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, IntervalEnds]


def read_metrics(record: Mapping[str, Any]) -> Metrics:
    """Find the numbers and intervals in what a result file says of a model.

    An interval is called after its metric (`win_rate_interval`), or just `interval`, and then belongs to the first
    number beside it. Where there is a `prompt_interval` too, it counts: prompts, not games, are independent.
    """
    values: dict[str, float] = {}
    intervals: dict[str, IntervalEnds] = {}
    for path, level in _levels(record):
        numbers = {name: float(value) for name, value in level.items() if _is_number(value)}
        values |= {path + name: value for name, value in numbers.items()}
        for name, value in level.items():
            ends = _ends(value)
            metric = next(iter(numbers), "") if name in _NO_INTERVAL_NAMES else name.removesuffix("_interval")
            if ends is not None and metric in numbers and (name != "interval" or "prompt_interval" not in level):
                intervals[path + metric] = ends
    return Metrics(values, intervals)


def names_of(benchmark: str) -> MetricNames:
    """Return what metrics of a benchmark are called; of one that is not known, as all others call them."""
    if (known := benchmark_of(benchmark)) is not None:
        return known.metrics
    every = [*(one.metrics for one in BENCHMARKS.values()), _OF_TRAINING]
    return MetricNames(
        headlines=tuple(name for one in every for name in one.headlines),
        labels={metric: label for one in every for metric, label in one.labels.items()},
        shown=tuple(name for one in every for name in one.shown),
        even={metric: value for one in every for metric, value in one.even.items()},
        lower_is_better=tuple(name for one in every for name in one.lower_is_better),
    )


def headline(found: Sequence[Metrics], names: MetricNames) -> str:
    """Return the metric that models are ranked by: one of the benchmark's, else the first that all models have.

    Raises:
        ValueError: the models share no number.
    """
    shared = [name for name in found[0].values if all(name in one.values for one in found)]
    with_interval = [name for name in shared if all(name in one.intervals for one in found)]
    for name in (*names.headlines, *with_interval, *shared):
        if name in shared:
            return name
    raise ValueError("no metric that all models have")


def shown_metrics(found: Sequence[Metrics], first: str, names: MetricNames) -> list[str]:
    """Return the metrics of a table: the headline, those with intervals at the top level, and the benchmark's own."""
    known = dict.fromkeys(name for one in found for name in one.values)
    own = [name for name in known if "." not in name and any(name in one.intervals for one in found)]
    return list(dict.fromkeys([first, *own, *(name for name in names.shown if name in known)]))


def _levels(record: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, record
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _levels(value, f"{path}{name}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def _ends(value: Any) -> IntervalEnds | None:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return None
