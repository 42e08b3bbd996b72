"""What a person sees of a study: what is left to run and how long that takes, then a live table with a row per arm."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mixdpo.common.tables import results_table
from mixdpo.study.run_specs import RunSpec, Variant, kept_share, start_run, tuning_runs, updates_of, variants
from mixdpo.study.run_study import (
    RUNS_FOLDER,
    Outcome,
    choose_setting,
    finals_of,
    name_in_keys,
    outcome_of,
    processes_of,
    settled_choice,
)
from mixdpo.study.single_run import RESULT_FILE
from mixdpo.study.study_settings import StudySettings
from mixdpo.study.study_tables import MEASURES


@dataclass(frozen=True)
class Pace:
    """What runs cost, as measured; None where nothing is known."""

    seconds_per_pair: float | None
    measuring_seconds: float | None

    def seconds(self, pairs: int) -> float | None:
        """Return the time of a run that trains so many pairs."""
        if self.seconds_per_pair is None:
            return None
        return pairs * self.seconds_per_pair + (self.measuring_seconds or 0.0)


@dataclass(frozen=True)
class Planned:
    """What is left to do of an arm as it is run; `variant` None is the start.

    `left` counts runs that are not done, those once that are asked for twice or by an earlier arm too; `seconds` is
    what they take one after another, None where nothing is known of it.
    """

    variant: Variant | None
    tuning_done: int
    tuning: int
    finals_done: int
    finals: int
    left: int
    seconds: float | None


def pace(study: StudySettings, output: Path) -> Pace:
    """Return the medians over the finished runs in a folder; where there are none, what the study file expects."""
    training, measuring = [], []
    for path in (output / RUNS_FOLDER).glob(f"*/{RESULT_FILE}"):
        record = json.loads(path.read_text(encoding="utf-8"))
        measuring.append(record["measuring_seconds"])
        if record.get("pairs_trained"):
            training.append(record["training_seconds"] / record["pairs_trained"])
    return Pace(
        median(training) if training else study.limits.seconds_per_pair, median(measuring) if measuring else None
    )


def plan_of_runs(study: StudySettings, output: Path) -> list[Planned]:
    """Return what a study consists of, what is done of it, and how long the rest takes."""
    name, speed = name_in_keys(study), pace(study, output)
    measured = outcome_of(start_run(study, name), output).record is not None
    planned = [Planned(None, 0, 0, int(measured), 1, int(not measured), 0.0 if measured else speed.seconds(0))]
    asked: set[str] = set()
    for variant in variants(study):
        settled = settled_choice(study, variant, output, name)
        trials = settled.trials if settled else [outcome_of(c, output) for c in tuning_runs(study, variant, name)]
        tuned = sum(trial.record is not None for trial in trials)
        choice = settled or (choose_setting(study, variant, trials) if tuned == len(trials) else None)
        finals = finals_of(study, choice, name) if choice else []
        done = sum(outcome_of(spec, output).record is not None for spec in finals)
        new = set() if settled else {trial.spec.key for trial in trials if trial.record is None} - asked
        asked |= new
        left = len(new) + len(study.seeds) - done
        each = speed.seconds(pairs_trained(study, variant))
        seconds = 0.0 if not left else None if each is None else left * each
        planned.append(Planned(variant, tuned, len(trials), done, len(study.seeds), left, seconds))
    return planned


def expected_time(study: StudySettings, planned: Sequence[Planned], speed: Pace) -> str:
    """Say in a line how many runs are left and how long they take."""
    left = f"{sum(one.left for one in planned)} runs left"
    seconds = [one.seconds for one in planned if one.seconds is not None]
    if len(seconds) < len(planned):
        return f"{left}; expected time: unknown until a run is done (or limits.seconds_per_pair says what one takes)"
    at_once = processes_of(study)
    how = "one after another" if at_once == 1 else f"{at_once} at once"
    if speed.measuring_seconds is None:
        how += ", without measuring, of which nothing is known yet"
    return f"{left}; expected time: {sum(seconds) / at_once / 3600:.1f} hours, {how}"


def pairs_trained(study: StudySettings, variant: Variant) -> int:
    """Return how many pairs a run of an arm trains, those of several epochs as often."""
    pairs = math.floor((kept_share(study, variant.arm) or 1.0) * study.task.pairs + 0.5)
    updates, batch = updates_of(study, pairs)
    return (variant.updates or updates) * batch


def dry_run_table(planned: list[Planned], name: str) -> Table:
    """Return what is left to do and how long it takes."""
    table = results_table(f"runs of {name}", "arm", "trials", "done", "final runs", "done", "expected, minutes")
    for one in planned:
        minutes = "?" if one.seconds is None else f"{one.seconds / 60:.0f}"
        label = "start" if one.variant is None else one.variant.name
        table.add_row(label, f"{one.tuning}", f"{one.tuning_done}", f"{one.finals}", f"{one.finals_done}", minutes)
    return table


class StudyProgress:
    """A live table on a terminal; elsewhere a line for every run that is new."""

    def __init__(self, study: StudySettings, planned: list[Planned], console: Console) -> None:
        self._study, self._planned, self._console = study, planned, console
        self._outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self._running: dict[str, tuple[RunSpec, float]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self._console, refresh_per_second=1):
            yield

    def started(self, spec: RunSpec) -> None:
        """Note that a run starts."""
        self._running[spec.key] = (spec, time.monotonic())

    def finished(self, outcome: Outcome) -> None:
        """Note what became of a run."""
        self._outcomes[outcome.spec.variant].append(outcome)
        ran = self._running.pop(outcome.spec.key, None)
        if ran is not None and not self._console.is_terminal:
            self._console.print(self._line(outcome, time.monotonic() - ran[1]), soft_wrap=True, markup=False)

    def _line(self, outcome: Outcome, seconds: float) -> str:
        result = f"failed: {outcome.failure}" if outcome.record is None else self._score(outcome)
        return f"{_described(outcome.spec)}: {result} ({seconds:.0f} s)"

    def _score(self, outcome: Outcome) -> str:
        assert outcome.record is not None
        value = outcome.record["scores"].get(self._study.primary)
        return f"{self._study.primary} {value:.3f}" if value is not None else "done"

    def _table(self) -> Table:
        running = "; ".join(
            f"{_described(spec)}, {time.monotonic() - began:.0f} s" for spec, began in list(self._running.values())
        )
        headings = ("arm", "trials", "rate", "beta", "runs", "failed", MEASURES.get(self._study.primary, "mean"))
        table = results_table(self._study.title or self._study.name, *headings, caption=running or None)
        for one in self._planned:
            name = "start" if one.variant is None else one.variant.name
            outcomes = self._outcomes[name]
            done = Counter(outcome.spec.stage for outcome in outcomes if outcome.record is not None)
            finals = [outcome for outcome in outcomes if outcome.spec.stage != "tune" and outcome.record is not None]
            scores = [o.record["scores"].get(self._study.primary, float("nan")) for o in finals if o.record]
            chosen = finals[-1].spec if finals else None
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


def _described(spec: RunSpec) -> str:
    """Name a run for a person."""
    if spec.stage == "start":
        return "start"
    what = f"{'trial, ' if spec.stage == 'tune' else ''}seed {spec.seed}"
    return f"{spec.variant}, {what}, rate {spec.learning_rate:g}, beta {spec.beta:g}"
