"""From a study's results to what can be said: every arm against the baseline and against the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixdpo.plan import BUCKETS
from mixdpo.study.results import START, Results
from mixdpo.study.statistics import Effect, compare_arms

DISPLACEMENTS = ("displacement_chosen", "displacement_rejected")


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm: its settings, its means, and how it differs.

    Attributes:
        name: of the arm as it was run; the start has one too.
        learning_rate: as tuned, None for the start and for an arm whose trials all failed.
        beta: likewise.
        note: what it is.
        seeds: finished final runs.
        failed: final runs that failed.
        updates: optimizer steps of its runs, ascending and distinct; more than one would be unfair.
        means: of each measure, over seeds and items.
        by_seed: the primary measure's mean of each seed.
        against_baseline: None for the baseline itself and the start.
        against_start: None for the start.
    """

    name: str
    learning_rate: float | None
    beta: float | None
    note: str
    seeds: int
    failed: int
    updates: tuple[int, ...]
    means: dict[str, float]
    by_seed: tuple[float, ...]
    against_baseline: Effect | None
    against_start: Effect | None


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """By how many nats an arm moved the answers of a bucket, over seeds and pairs."""

    arm: str
    bucket: str
    pairs: int
    chosen: Effect
    rejected: Effect


@dataclass(frozen=True)
class Analysis:
    """Everything the tables, figures and pages show of one study."""

    runs: dict[str, Any]
    baseline: str
    arms: list[ArmResult]
    displacement: list[Displacement]

    @property
    def primary(self) -> str:
        """The measure that arms were tuned and compared by."""
        name: str = self.runs["study"]["primary"]
        return name


def analyse(results: Results) -> Analysis:
    """Compare the arms of a study; each measure's mean and the primary measure's effects with Holm's correction."""
    runs, level = results.runs, results.runs["study"]["level"]
    primary = runs["study"]["primary"]
    baseline = _as_run(runs, runs["study"]["baseline"])
    by_arm, groups = results.items(primary)
    start = next(iter(by_arm.get(START, {}).values()), None)
    trained = {name: seeds for name, seeds in by_arm.items() if name != START}
    others = {name: seeds for name, seeds in trained.items() if name != baseline}
    against_baseline = compare_arms(others, trained.get(baseline, {}), groups, level=level) if others else {}
    against_start = compare_arms(trained, start, groups, level=level) if start is not None and trained else {}
    means = _means(results)
    arms = []
    described = [{"name": START, "learning_rate": None, "beta": None, "note": ""}, *runs["arms"]]
    for one in described:
        name = one["name"]
        finals = [run for run in runs["runs"] if run["arm"] == name and run["stage"] in ("final", "start")]
        arms.append(
            ArmResult(
                name=name,
                learning_rate=one["learning_rate"],
                beta=one["beta"],
                note=one["note"],
                seeds=sum(run["failure"] is None for run in finals),
                failed=sum(run["failure"] is not None for run in finals),
                updates=tuple(sorted({run["updates"] for run in finals if "updates" in run})),
                means=means.get(name, {}),
                by_seed=tuple(float(values.mean()) for _, values in sorted(by_arm.get(name, {}).items())),
                against_baseline=against_baseline.get(name),
                against_start=against_start.get(name),
            )
        )
    return Analysis(runs, baseline, arms, _displacements(results, level))


def _as_run(runs: dict[str, Any], arm: str) -> str:
    """Return the name under which an arm was run: at equal updates, where there are two."""
    names = [one["name"] for one in runs["arms"] if one["arm"] == arm and one["matched"] != "epochs"]
    return str(names[0])


def _means(results: Results) -> dict[str, dict[str, float]]:
    means: dict[str, dict[str, float]] = {}
    for measure in results.measures():
        for arm, seeds in results.items(measure)[0].items():
            means.setdefault(arm, {})[measure] = float(np.mean([values.mean() for values in seeds.values()]))
    return means


def _displacements(results: Results, level: float) -> list[Displacement]:
    if not set(DISPLACEMENTS) <= set(results.measures()):
        return []
    found = []
    for bucket in BUCKETS:
        sides = [results.items(measure, bucket) for measure in DISPLACEMENTS]
        (chosen, groups), (rejected, _) = sides
        if len(np.unique(groups)) < 2:
            continue
        nothing = np.zeros(len(groups))
        effects = [
            compare_arms({arm: seeds for arm, seeds in side.items() if arm != START}, nothing, groups, level=level)
            for side in (chosen, rejected)
        ]
        for arm in effects[0]:
            found.append(
                Displacement(
                    arm=arm, bucket=bucket, pairs=len(groups), chosen=effects[0][arm], rejected=effects[1][arm]
                )
            )
    return found
