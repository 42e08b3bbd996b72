"""What a study will run and how long that takes, from what earlier runs of its folder took."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mixdpo.study.cell import RESULT_FILE
from mixdpo.study.cells import Cell, Variant, final_cells, kept_share, start_cell, tuning_cells, updates_of, variants
from mixdpo.study.run import CELLS, Choice, choose, model_name, outcome_of
from mixdpo.study.settings import StudySettings


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
    """What is left to do of an arm as it is run; `variant` None is the start."""

    variant: Variant | None
    tuning_done: int
    tuning: int
    finals_done: int
    finals: int
    seconds: float | None


def pace(study: StudySettings, output: Path) -> Pace:
    """Return the medians over the finished runs in a folder; where there are none, what the study file expects."""
    training, measuring = [], []
    for path in (output / CELLS).glob(f"*/{RESULT_FILE}"):
        record = json.loads(path.read_text(encoding="utf-8"))
        measuring.append(record["measuring_seconds"])
        if record.get("pairs_trained"):
            training.append(record["training_seconds"] / record["pairs_trained"])
    return Pace(
        median(training) if training else study.limits.seconds_per_pair, median(measuring) if measuring else None
    )


def plan_of_runs(study: StudySettings, output: Path) -> list[Planned]:
    """Return what a study consists of, what is done of it, and how long the rest takes."""
    name, speed = model_name(study), pace(study, output)
    start = outcome_of(start_cell(study, name), output)
    planned = [Planned(None, 0, 0, int(start.record is not None), 1, 0.0 if start.record else speed.measuring_seconds)]
    asked: set[str] = set()
    for variant in variants(study):
        trials = tuning_cells(study, variant, name)
        choice = choose(study, variant, [outcome_of(cell, output) for cell in trials])
        tuned = sum(trial.record is not None for trial in choice.trials)
        done = _finals_done(study, choice, output, name) if tuned == len(trials) else 0
        new = [cell for cell in trials if outcome_of(cell, output).record is None and cell.key not in asked]
        asked.update(cell.key for cell in new)
        left = len({cell.key for cell in new}) + len(study.seeds) - done
        each = speed.seconds(_pairs_trained(study, variant)) if left else 0.0
        seconds = None if each is None else left * each
        planned.append(Planned(variant, tuned, len(trials), done, len(study.seeds), seconds))
    return planned


def _finals_done(study: StudySettings, choice: Choice, output: Path, name: str) -> int:
    if choice.learning_rate is None or choice.beta is None:
        return 0
    cells: list[Cell] = list(final_cells(study, choice.variant, name, choice.learning_rate, choice.beta))
    return sum(outcome_of(cell, output).record is not None for cell in cells)


def _pairs_trained(study: StudySettings, variant: Variant) -> int:
    pairs = math.floor((kept_share(study, variant.arm) or 1.0) * study.bench.pairs + 0.5)
    updates, batch = updates_of(study, pairs)
    return (variant.updates or updates) * batch
