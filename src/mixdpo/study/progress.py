"""What a person watches while a study runs: one row per arm, and what runs now."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mixdpo.common.terminal import results_table
from mixdpo.study.estimate import Planned
from mixdpo.study.run import Outcome
from mixdpo.study.study_settings import StudySettings
from mixdpo.study.tables import MEASURES
from mixdpo.study.trials import Cell


class StudyProgress:
    """A live table on a terminal; elsewhere a line for every run that is new."""

    def __init__(self, study: StudySettings, planned: list[Planned], console: Console) -> None:
        self._study, self._planned, self._console = study, planned, console
        self._outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self._running: dict[str, tuple[Cell, float]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=1):
            yield

    def started(self, cell: Cell) -> None:
        """Note that a cell starts."""
        self._running[cell.key] = (cell, time.monotonic())

    def finished(self, outcome: Outcome) -> None:
        """Note what became of a cell."""
        self._outcomes[outcome.cell.variant].append(outcome)
        ran = self._running.pop(outcome.cell.key, None)
        if ran is not None and not self._console.is_terminal:
            self._console.print(self._line(outcome, time.monotonic() - ran[1]), soft_wrap=True, markup=False)

    def _line(self, outcome: Outcome, seconds: float) -> str:
        said = f"failed: {outcome.failure}" if outcome.record is None else self._score(outcome)
        return f"{describe(outcome.cell)}: {said} ({seconds:.0f} s)"

    def _score(self, outcome: Outcome) -> str:
        assert outcome.record is not None
        value = outcome.record["scores"].get(self._study.primary)
        return f"{self._study.primary} {value:.3f}" if value is not None else "done"

    def _table(self) -> Table:
        running = "; ".join(
            f"{describe(cell)}, {time.monotonic() - began:.0f} s" for cell, began in list(self._running.values())
        )
        headings = ("arm", "trials", "rate", "beta", "runs", "failed", MEASURES.get(self._study.primary, "mean"))
        table = results_table(self._study.title or self._study.name, *headings, caption=running or None)
        for one in self._planned:
            name = "start" if one.variant is None else one.variant.name
            outcomes = self._outcomes[name]
            done = Counter(outcome.cell.stage for outcome in outcomes if outcome.record is not None)
            finals = [outcome for outcome in outcomes if outcome.cell.stage != "tune" and outcome.record is not None]
            scores = [o.record["scores"].get(self._study.primary, float("nan")) for o in finals if o.record]
            chosen = finals[-1].cell if finals else None
            table.add_row(
                name,
                f"{done['tune']}/{one.tuning}",
                "" if chosen is None or chosen.learning_rate is None else f"{chosen.learning_rate:g}",
                "" if chosen is None or chosen.beta is None else f"{chosen.beta:g}",
                f"{len(finals)}/{one.finals}",
                f"{sum(outcome.record is None for outcome in outcomes)}",
                f"{sum(scores) / len(scores):.3f}" if scores else "",
            )
        return table


def describe(cell: Cell) -> str:
    """Name a cell for a person."""
    if cell.stage == "start":
        return "start"
    what = f"{'trial, ' if cell.stage == 'tune' else ''}seed {cell.seed}"
    return f"{cell.variant}, {what}, rate {cell.learning_rate:g}, beta {cell.beta:g}"


def dry_run_table(planned: list[Planned], name: str) -> Table:
    """Return what is left to do and how long it takes."""
    table = results_table(f"runs of {name}", "arm", "trials", "done", "final runs", "done", "expected, minutes")
    for one in planned:
        minutes = "?" if one.seconds is None else f"{one.seconds / 60:.0f}"
        label = "start" if one.variant is None else one.variant.name
        table.add_row(label, f"{one.tuning}", f"{one.tuning_done}", f"{one.finals}", f"{one.finals_done}", minutes)
    return table
