"""From a study's results to what follows from them: every arm against the baseline and against the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixdpo.evaluation.statistics.paired import holm
from mixdpo.study.effects import Effect, compare_arms, detectable
from mixdpo.study.study_results import START, Results
from mixdpo.study.task import DISPLACEMENTS, HELD_OUT_BUCKETS


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm: its settings, its means, and how it differs.

    Attributes:
        name: of the arm as it was run; the start has one too.
        learning_rate: as tuned, None for the start and where no setting has all its trials.
        beta: likewise, and None for an arm that reads none.
        note: what it is.
        seeds: finished final runs.
        failed: final runs that failed.
        trials_failed: trials that failed.
        trials: those that were different runs.
        updates: optimizer steps of its runs, ascending and distinct; more than one would be unfair.
        routes: pairs of each route, in the mean over its runs.
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
    trials_failed: int
    trials: int
    updates: tuple[int, ...]
    routes: Mapping[str, float]
    means: dict[str, float]
    by_seed: tuple[float, ...]
    against_baseline: Effect | None
    against_start: Effect | None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The mean of some arms, as they were run, against the mean of others.

    `detectable` is the smallest true effect that this contrast would find with 80 % power, at Holm's first step.
    """

    name: str
    arms: tuple[str, ...]
    against: tuple[str, ...]
    effect: Effect
    detectable: float


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
    """Everything the tables, figures and pages show of one study.

    Attributes:
        runs: see `Results`.
        baseline: name of the arm that others are compared with, as it was run.
        arms: the start first.
        contrasts: those of the study file whose arms have a seed in common.
        displacement: by bucket and arm.
        detectable: the smallest effect against the baseline that the study would find with 80 % power; None where
            nothing is compared.
    """

    runs: dict[str, Any]
    baseline: str
    arms: list[ArmResult]
    contrasts: list[Contrast]
    displacement: list[Displacement]
    detectable: float | None

    @property
    def primary(self) -> str:
        """The measure that arms were tuned and compared by."""
        name: str = self.runs["study"]["primary"]
        return name

    @property
    def gain(self) -> float | None:
        """The baseline's gain over the start, the unit of effects; None where it is not clearly above zero."""
        own = next((arm.against_start for arm in self.arms if arm.name == self.baseline), None)
        return own.estimate if own is not None and own.low > 0 else None


def analyse(results: Results) -> Analysis:
    """Compare the arms of a study; each measure's mean and the primary measure's effects with Holm's correction."""
    runs, level = results.runs, results.runs["study"]["level"]
    primary = runs["study"]["primary"]
    baseline = as_run(runs, runs["study"]["baseline"])
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
        own = [run for run in runs["runs"] if run["arm"] == name]
        trials = [run for run in own if run["stage"] == "tune"]
        finals = [run for run in own if run["stage"] != "tune"]
        arms.append(
            ArmResult(
                name=name,
                learning_rate=one["learning_rate"],
                beta=one["beta"] if _reads_beta(trials) else None,
                note=one["note"],
                seeds=sum(run["failure"] is None for run in finals),
                failed=sum(run["failure"] is not None for run in finals),
                trials_failed=sum(run["failure"] is not None for run in trials),
                trials=len({run["key"] for run in trials}),
                updates=tuple(sorted({run["updates"] for run in finals if "updates" in run})),
                routes=_routes(finals),
                means=means.get(name, {}),
                by_seed=tuple(float(values.mean()) for _, values in sorted(by_arm.get(name, {}).items())),
                against_baseline=against_baseline.get(name),
                against_start=against_start.get(name),
            )
        )
    most = max((one.seeds for one in against_baseline.values()), default=0)
    whole = [one for one in against_baseline.values() if one.seeds == most]
    found = detectable(whole, level) if whole else None
    contrasts = _contrasts(runs, by_arm, groups, level)
    return Analysis(runs, baseline, arms, contrasts, _displacements(results, level), found)


def _contrasts(
    runs: dict[str, Any], by_arm: Mapping[str, Mapping[int, np.ndarray]], groups: np.ndarray, level: float
) -> list[Contrast]:
    """Compare means of arms, seed by seed; p-values are corrected over the contrasts."""
    sides = {
        name: [tuple(as_run(runs, arm) for arm in planned[side]) for side in ("arms", "against")]
        for name, planned in runs["study"].get("contrasts", {}).items()
    }
    differences = {}
    for name, (arms, against) in sides.items():
        seeds = set.intersection(*(set(by_arm.get(arm, {})) for arm in (*arms, *against)))
        differences[name] = {seed: _pooled(by_arm, arms, seed) - _pooled(by_arm, against, seed) for seed in seeds}
    effects = compare_arms(differences, np.zeros(len(groups)), groups, level=level)
    return [
        Contrast(
            name=name,
            arms=sides[name][0],
            against=sides[name][1],
            effect=one,
            detectable=one.variances.smallest_effect((1 - level) / len(effects)),
        )
        for name, one in effects.items()
    ]


def _pooled(by_arm: Mapping[str, Mapping[int, np.ndarray]], arms: Sequence[str], seed: int) -> np.ndarray:
    pooled: np.ndarray = np.mean([by_arm[arm][seed] for arm in arms], axis=0)
    return pooled


def _reads_beta(trials: Sequence[Mapping[str, Any]]) -> bool:
    """Whether trials of different betas are different runs; True where one beta was tried."""
    key_of_beta: dict[tuple[float, int], dict[float, str]] = {}
    for run in trials:
        key_of_beta.setdefault((run["learning_rate"], run["seed"]), {})[run["beta"]] = run["key"]
    return all(len(set(keys.values())) == len(keys) for keys in key_of_beta.values())


def _routes(finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    plans = [run["routes"] for run in finals if run.get("routes")]
    names = dict.fromkeys(line["route"] for plan in plans for line in plan)
    return {
        name: sum(line["pairs"] for plan in plans for line in plan if line["route"] == name) / len(plans)
        for name in names
    }


def as_run(runs: dict[str, Any], arm: str) -> str:
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
    """Compare every arm and bucket with no change; p-values of a side are corrected over all of them together."""
    if not set(DISPLACEMENTS) <= set(results.measures()):
        return []
    found = []
    for bucket in HELD_OUT_BUCKETS:
        sides = [results.items(measure, bucket) for measure in DISPLACEMENTS]
        groups = sides[0][1]
        if len(np.unique(groups)) < 2:
            continue
        nothing = np.zeros(len(groups))
        chosen, rejected = (
            compare_arms({arm: seeds for arm, seeds in side.items() if arm != START}, nothing, groups, level=level)
            for side, _ in sides
        )
        found += [
            Displacement(arm=arm, bucket=bucket, pairs=len(groups), chosen=chosen[arm], rejected=rejected[arm])
            for arm in chosen
        ]
    p_chosen, p_rejected = (holm([getattr(one, side).p_value for one in found]) for side in ("chosen", "rejected"))
    return [
        replace(one, chosen=replace(one.chosen, p_adjusted=first), rejected=replace(one.rejected, p_adjusted=second))
        for one, first, second in zip(found, p_chosen, p_rejected, strict=True)
    ]
