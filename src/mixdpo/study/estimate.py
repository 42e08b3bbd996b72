"""What a study will run and how long that takes, from what earlier runs of its folder took."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mixdpo.study.run import CELLS, choose, finals_of, model_name, outcome_of, processes_of, settled_choice
from mixdpo.study.study_settings import StudySettings
from mixdpo.study.trial import RESULT_FILE
from mixdpo.study.trials import Variant, kept_share, start_cell, tuning_cells, updates_of, variants


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
    measured = outcome_of(start_cell(study, name), output).record is not None
    planned = [Planned(None, 0, 0, int(measured), 1, int(not measured), 0.0 if measured else speed.seconds(0))]
    asked: set[str] = set()
    for variant in variants(study):
        settled = settled_choice(study, variant, output, name)
        trials = settled.trials if settled else [outcome_of(c, output) for c in tuning_cells(study, variant, name)]
        tuned = sum(trial.record is not None for trial in trials)
        choice = settled or (choose(study, variant, trials) if tuned == len(trials) else None)
        finals = finals_of(study, choice, name) if choice else []
        done = sum(outcome_of(cell, output).record is not None for cell in finals)
        new = set() if settled else {trial.cell.key for trial in trials if trial.record is None} - asked
        asked |= new
        left = len(new) + len(study.seeds) - done
        each = speed.seconds(_pairs_trained(study, variant))
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


def _pairs_trained(study: StudySettings, variant: Variant) -> int:
    pairs = math.floor((kept_share(study, variant.arm) or 1.0) * study.bench.pairs + 0.5)
    updates, batch = updates_of(study, pairs)
    return (variant.updates or updates) * batch
