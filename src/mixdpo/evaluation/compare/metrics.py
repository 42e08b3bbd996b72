"""Metrics of result files: which numbers there are, their intervals, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

import numpy as np

Interval = tuple[float, float]

_HEADLINES: Final = (
    "win_rate", "average", "mean", "demands_met", "accuracy", "per_token_accuracy", "rewards/accuracies",
)  # fmt: skip
"""What a benchmark is known by, the first there is."""

_ALSO_SHOWN: Final = (
    "length_controlled_winrate", "style_control.win_rate", "first_turn", "second_turn", "loss", "rewards/margins",
    "eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "displacement/chosen", "displacement/rejected",
)  # fmt: skip
"""Metrics without an interval that a table shows as well."""

_LABELS: Final = {
    "win_rate": "win rate, %",
    "length_controlled_winrate": "length-controlled, %",
    "style_control.win_rate": "equal style, %",
    "average": "rating",
    "first_turn": "turn 1",
    "second_turn": "turn 2",
    "demands_met": "demands met",
    "all_met": "all met, %",
    "accuracy": "reward accuracy, %",
    "reward_margin": "reward margin",
    "displacement_chosen": "Δ log p chosen, nats",
    "displacement_rejected": "Δ log p rejected, nats",
    "chosen_fell": "chosen fell, %",
    "logp_accuracy": "likelihood accuracy, %",
    "per_token_accuracy": "per-token accuracy, %",
    "rewards/accuracies": "training accuracy",
}
_EVEN: Final = {"win_rate": 50.0}
_LOWER_IS_BETTER: Final = ("loss", "eval_loss")
_NO_INTERVAL_NAMES: Final = ("interval", "prompt_interval")


@dataclass(frozen=True)
class Metrics:
    """The numbers of one model on one benchmark; nested ones are named by their path, such as `buckets.hard.accuracy`.

    Attributes:
        values: every number.
        intervals: of those that have one.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, Interval]


def read_metrics(record: Mapping[str, Any]) -> Metrics:
    """Find the numbers and intervals in what a result file says of a model.

    An interval is called after its metric (`win_rate_interval`), or just `interval`, and then belongs to the first
    number beside it. Where there is a `prompt_interval` too, it counts: prompts, not games, are independent.
    """
    values: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for path, level in _levels(record):
        numbers = {name: float(value) for name, value in level.items() if _is_number(value)}
        values |= {path + name: value for name, value in numbers.items()}
        for name, value in level.items():
            ends = _ends(value)
            metric = next(iter(numbers), "") if name in _NO_INTERVAL_NAMES else name.removesuffix("_interval")
            if ends is not None and metric in numbers and (name != "interval" or "prompt_interval" not in level):
                intervals[path + metric] = ends
    return Metrics(values, intervals)


def headline(found: Sequence[Metrics]) -> str:
    """Return the metric that a benchmark is known by: a usual one, else the first that all models have.

    Raises:
        ValueError: the models share no number.
    """
    shared = [name for name in found[0].values if all(name in one.values for one in found)]
    with_interval = [name for name in shared if all(name in one.intervals for one in found)]
    for name in (*_HEADLINES, *with_interval, *shared):
        if name in shared:
            return name
    raise ValueError("no metric that all models have")


def shown_metrics(found: Sequence[Metrics], first: str) -> list[str]:
    """Return the metrics of a table: the headline, those with intervals at the top level, and a few usual ones."""
    names = dict.fromkeys(name for one in found for name in one.values)
    own = [name for name in names if "." not in name and any(name in one.intervals for one in found)]
    return list(dict.fromkeys([first, *own, *(name for name in _ALSO_SHOWN if name in names)]))


def label(metric: str) -> str:
    """Return what tables call a metric."""
    return _LABELS.get(metric, metric.replace("_", " "))


def even(metric: str) -> float | None:
    """Return the value of a metric at which a model does as well as its baseline, None where there is none."""
    return _EVEN.get(metric)


def ascending(metric: str, value: float) -> float:
    """Return a value to sort by, the best model first."""
    return value if metric in _LOWER_IS_BETTER else -value


def _levels(record: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, record
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _levels(value, f"{path}{name}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def _ends(value: Any) -> Interval | None:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return None
