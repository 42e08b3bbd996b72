"""What a person reads of a run while it trains: a row of numbers per line of the log, in columns that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mixdpo.common.tables import percent_text
from mixdpo.training.answers_settings import WIN_RATE

_GAP: Final = 2
_WIN_RATE: Final = f"eval_{WIN_RATE}"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        heading: words, which stand above each other.
        metric: what a line of the log calls it; empty for what is no metric.
        text: writes a value.
        width: in characters, as long as no value is out of the ordinary.
        evaluated: whether evaluations have it, too.
        leaves: where room is short, the columns of the highest number are left out first; 0 stays.
    """

    heading: tuple[str, str]
    metric: str
    text: Callable[[float], str]
    width: int
    evaluated: bool = False
    leaves: int = 0


def number(value: float, digits: int = 4) -> str:
    """Write a value with so many digits behind the point, and with fewer where there are more before it."""
    if not math.isfinite(value):
        return str(value)
    before = len(str(int(abs(value))))
    return f"{value:.{max(digits + 1 - before, 0)}f}"


def duration(seconds: float) -> str:
    """Write how long something takes, in at most six characters."""
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if (count := seconds / size) < most - 0.5:
            return f"{count:.1f} {unit}" if unit == "h" and count < 9.95 else f"{count:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


_LEFT: Final = Column(("time", "left"), "", str, 6)
_LOSS: Final = Column(("", "loss"), "loss", number, 7, evaluated=True)
_HARD_LOSS: Final = Column(("SFT", "loss"), "loss/sft", number, 6)
_TIE_LOSS: Final = Column(("tie", "loss"), "loss/tie", number, 6)
_OTHERS: Final = (
    Column(("", "accuracy"), "rewards/accuracies", percent_text, 8, evaluated=True),
    Column(("", "margin"), "rewards/margins", lambda value: number(value, 3), 6, evaluated=True),
    Column(("learning", "rate"), "learning_rate", lambda value: f"{value:.1e}", 8, leaves=3),
    Column(("tokens", "per s"), "tokens_per_second", lambda value: f"{value:,.0f}", 7, leaves=1),
    Column(("peak", "GiB"), "peak_memory_gib", lambda value: number(value, 2), 4, leaves=2),
)


def progress_columns(routes: Collection[str], steps: int, width: int, hard_loss: str = "SFT") -> list[Column]:
    """Return the columns of a run; those that find no room in the width are left out.

    Args:
        routes: of the plan. Where it has others than `preference`, their losses stand apart.
        steps: of the run.
        width: in characters.
        hard_loss: what the loss of the hard route is called.
    """
    columns = [Column(("", "step"), "", str, max(2 * len(str(steps)) + 1, 4)), _LEFT]
    if {"sft", "both", "tie"}.isdisjoint(routes):
        columns.append(_LOSS)
    else:
        columns.append(Column(("preference", "loss"), "loss/preference", number, 10, evaluated=True))
        if "tie" in routes:
            columns.append(_TIE_LOSS)
        if not {"sft", "both"}.isdisjoint(routes):
            columns.append(replace(_HARD_LOSS, heading=(hard_loss, "loss"), width=max(len(hard_loss), 6)))
    columns += _OTHERS
    while line_width(columns) > width and any(column.leaves for column in columns):
        columns.remove(max(columns, key=lambda column: column.leaves))
    return columns


def line_width(columns: Sequence[Column]) -> int:
    """Return the width of a line in characters."""
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def headings(columns: Sequence[Column]) -> list[str]:
    """Return the two lines above the rows."""
    return [aligned(columns, [column.heading[line] for column in columns]) for line in (0, 1)]


def aligned(columns: Sequence[Column], cells: Sequence[str]) -> str:
    """Return the line of a row's cells, which may be fewer than the columns."""
    return (" " * _GAP).join(
        cell.rjust(column.width) for column, cell in zip(columns, cells, strict=False)
    ).rstrip()  # fmt: skip


def training_cells(columns: Sequence[Column], logs: Mapping[str, float], step: str, left: str) -> list[str]:
    """Return the cells of a line of the log; those of metrics that it lacks are empty."""
    return [step, left, *(_cell(column, logs, column.metric) for column in columns[2:])]


def evaluation_cells(
    columns: Sequence[Column], logs: Mapping[str, float], prefix: str, step: str
) -> tuple[list[str], str]:
    """Return the cells of an evaluation, and what stands behind them: the set's name and the answers' win rate."""
    evaluated = [column for column in columns[2:] if column.evaluated]
    last = columns.index(evaluated[-1])
    cells = [step, "eval"]
    for column in columns[2 : last + 1]:
        name = "loss" if column.metric.startswith("loss") else column.metric
        cells.append(_cell(column, logs, f"{prefix}_{name}") if column.evaluated else "")
    words = [prefix.removeprefix("eval").lstrip("_")]
    if _WIN_RATE in logs:
        words.append(f"win rate {percent_text(logs[_WIN_RATE], 0)}")
    return cells, ", ".join(filter(None, words))


def _cell(column: Column, logs: Mapping[str, float], name: str) -> str:
    return column.text(logs[name]) if name in logs else ""
