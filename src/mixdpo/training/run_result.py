"""What a run has come to, from the lines of its log: in one line, and as a table of first and last values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from mixdpo.common.tables import percent_text, results_table
from mixdpo.training.answers_settings import WIN_RATE

_LOSS_OF_EVALUATION: Final = re.compile("(.+)_loss/preference")
_WIN_RATE: Final = f"eval_{WIN_RATE}"
_ACCURACY: Final = "rewards/accuracies"
_SHOWN: Final = (
    "loss",
    "loss/preference",
    "loss/tie",
    "loss/sft",
    _ACCURACY,
    "rewards/margins",
    "displacement/chosen",
    "displacement/rejected",
)


def evaluation_of(line: Mapping[str, Any]) -> str | None:
    """Return what the metrics of an evaluation begin with, as `eval` or `eval_NAME`; None if a line is of none."""
    prefixes = [match[1] for name in line if (match := _LOSS_OF_EVALUATION.fullmatch(name))]
    return prefixes[0] if prefixes else "eval" if _WIN_RATE in line else None  # the last of answers alone


def evaluations(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the metrics of the evaluated sets begin with, each once."""
    return list(dict.fromkeys(prefix for line in metrics if (prefix := evaluation_of(line)) is not None))


def result_sentence(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Say on a line or two what the lines of `metrics.jsonl` show: evaluations where there are any, else training."""
    parts = []
    if judged := [line for line in metrics if _WIN_RATE in line]:
        last = judged[-1]
        low, high = (100 * last[f"{_WIN_RATE}_{end}"] for end in ("low", "high"))
        parts.append(
            f"answers preferred to the start's on {percent_text(last[_WIN_RATE])} of prompts "
            f"(95 % interval {low:.0f} to {high:.0f}) at step {last['step']:,}"
        )
    for prefix in evaluations(metrics)[:2]:
        name = prefix.removeprefix("eval").lstrip("_")
        label = f"evaluation accuracy{f' on {name}' if name else ''}"
        parts += _from_first_to_last(metrics, f"{prefix}_{_ACCURACY}", label, percent_text)
    if not parts:
        train = [line for line in metrics if "loss" in line]
        if any(_ACCURACY in line for line in train):
            parts += _of_tenths([line[_ACCURACY] for line in train if _ACCURACY in line])
        else:
            parts += _from_first_to_last(train, "loss", "training loss", lambda value: f"{value:.4g}")
    return "\n".join(part[:1].upper() + part[1:] for part in parts)


def _from_first_to_last(
    metrics: Sequence[Mapping[str, Any]], name: str, label: str, text: Callable[[float], str]
) -> list[str]:
    found = [line for line in metrics if name in line]
    if not found:
        return []
    first, last = (f"{text(line[name])} at step {line['step']:,}" for line in (found[0], found[-1]))
    return [f"{label} {first}" + (f", {last}" if len(found) > 1 else "")]


def _of_tenths(accuracies: Sequence[float]) -> list[str]:
    """One line of the log is a few pairs, and says little."""
    some = max(len(accuracies) // 10, 1)
    first, last = (percent_text(sum(part) / some) for part in (accuracies[:some], accuracies[-some:]))
    return [f"training accuracy {first} at first, {last} in the end (means over a tenth of the run)"]


def final_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """Return the short table that closes a run: first and last logged value of the main metrics."""
    table = results_table("training", "metric", "first", "last")
    of_evaluation = [f"{prefix}_{name}" for prefix in evaluations(metrics)
                     for name in ("loss", _ACCURACY, "rewards/margins")]  # fmt: skip
    for name in (*_SHOWN, *of_evaluation, _WIN_RATE):
        if values := [line[name] for line in metrics if name in line]:
            table.add_row(name, *(f"{value:.4g}" for value in (values[0], values[-1])))
    return table
