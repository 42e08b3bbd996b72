"""What the contrasts of a study file could see, by the results of earlier studies: before any of it is run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.tables import TextTable, percent_text
from mixdpo.study.analysis import as_run
from mixdpo.study.constraint_task import ConstraintTask
from mixdpo.study.effects import Effect, compare_arms
from mixdpo.study.power import VarianceParts, pooled, seeds_needed, smallest_effect, variance_parts
from mixdpo.study.run_specs import tuning_runs, variants
from mixdpo.study.run_study import name_in_keys, processes_of
from mixdpo.study.study_progress import Pace, pairs_trained
from mixdpo.study.study_results import START, Results
from mixdpo.study.study_settings import StudySettings
from mixdpo.study.task import PAIR_MEASURES

TARGET: Final = 0.3
"""Share of the baseline's gain that a study should be able to see."""
GROWTHS: Final[Mapping[str, float]] = {"does not grow": 0.0, "grows as sqrt(pairs)": 0.5, "grows as pairs": 1.0}
"""How the baseline's gain may grow with the pairs that are no ties: an exponent. Which is right is not known."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What earlier results say of a study of the same measure.

    Attributes:
        parts: of the difference of two arms of one learning rate, pooled over all such arms.
        comparisons: how many differences these are.
        rates: the learning rates of these arms, ascending.
        gain: of the first results' baseline over the start, in the unit of the measure.
        gain_is_clear: whether its own interval leaves out zero.
        preferences: training pairs of that baseline that are no ties.
        seconds_per_pair: of training, the median over runs.
        seconds_per_item: of measuring, likewise.
    """

    parts: VarianceParts
    comparisons: int
    rates: tuple[float, ...]
    gain: float
    gain_is_clear: bool
    preferences: float
    seconds_per_pair: float
    seconds_per_item: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one contrast of a planned study would see.

    Attributes:
        contrast: its name.
        growth: how the baseline's gain is taken to grow with the pairs, of `GROWTHS`.
        gain: the baseline's gain by that, in the unit of the measure.
        smallest: the effect that the planned seeds find with 80 % power.
        seeds: those that find `TARGET` of the gain; None where no number does.
        hours: what the whole study takes with so many.
    """

    contrast: str
    growth: str
    gain: float
    smallest: float
    seeds: int | None
    hours: float | None


def earlier(results: Sequence[Results], primary: str, rates: Sequence[float] | None = None) -> Earlier:
    """Say what results tell of the differences between arms, and of the gain of the first one's baseline.

    Arms are compared at equal updates and at the same learning rate, as a plan's effect has to be.

    Args:
        results: of earlier studies; runs that they share count once.
        primary: the measure.
        rates: learning rates of the arms to look at; None takes all, and so do rates that no two arms have.

    Raises:
        InputError: results of another measure, without a baseline or start, or of arms that cannot be compared.
    """
    for one in results:
        if one.runs["study"]["primary"] != primary:
            raise InputError(
                f"results of study {one.runs['study']['name']} are measured by {one.runs['study']['primary']}, "
                f"and this one by {primary}"
            )
    found = {key: (rate, parts) for one in results for key, rate, parts in _differences(one, primary)}
    wanted = {key: each for key, each in found.items() if rates is None or each[0] in rates} or found
    if not wanted:
        raise InputError("no two arms of these results have a learning rate and two seeds in common")
    baseline = _gain(results[0], primary)
    finals = [run for one in results for run in one.runs["runs"] if run["stage"] == "final" and not run["failure"]]
    return Earlier(
        parts=pooled([parts for _, parts in wanted.values()]),
        comparisons=len(wanted),
        rates=tuple(sorted({rate for rate, _ in wanted.values()})),
        gain=baseline.estimate,
        gain_is_clear=baseline.low > 0,
        preferences=preferences(results[0].runs["study"]["bench"]),
        seconds_per_pair=median(run["training_seconds"] / run["pairs_trained"] for run in finals),
        seconds_per_item=median(run["measuring_seconds"] for run in finals) / baseline.items,
    )


def preferences(bench: Mapping[str, Any]) -> float:
    """Return how many training pairs of a study's section `bench` are no ties."""
    of_ties = (bench.get("rater") or {}).get("tie_share", 0.0), (bench.get("ties") or {}).get("share", 0.0)
    return float(bench["pairs"] * (1 - max(of_ties)))


def earlier_for(study: StudySettings, results: Sequence[Results]) -> Earlier:
    """Say what results tell of a study: of arms at its learning rates, and with the luck of sampled answers.

    Earlier answers were greedy. Where the study samples, and has several answers to each prompt to learn it from, the
    luck of two sampled answers takes the place of what greedy ones show, if it is larger.
    """
    known = earlier(results, study.primary, study.tuning.learning_rate)
    if study.generation.temperature > 0 and isinstance(study.task, ConstraintTask) and study.task.ties is not None:
        luck = 2 * study.task.ties.answer_variance
        known = replace(known, parts=replace(known.parts, answers=max(known.parts.answers, luck)))
    return known


@dataclass(frozen=True, kw_only=True)
class Design:
    """The numbers that decide what a study of a file sees, and for how long it runs.

    Attributes:
        pairs: training pairs of each seed.
        preferences: those of them that are no ties.
        groups: of test items.
        items_per_group: the mean.
        alpha: of one contrast, at Holm's first step.
        hours_per_seed: of all arms, as many runs at once as the file says.
        hours_once: of what no seed repeats: trials and the start.
    """

    pairs: int
    preferences: float
    groups: int
    items_per_group: float
    alpha: float
    hours_per_seed: float
    hours_once: float

    def seeds_in(self, hours: float) -> int:
        """Return how many seeds run in so many hours."""
        return max(int((hours - self.hours_once) / self.hours_per_seed), 0)


def design_of(study: StudySettings, known: Earlier, pairs: int | None = None, items: float | None = None) -> Design:
    """Return the design of a study file, or one of other numbers of pairs and of items in each group."""
    groups, each = _items(study)
    each = items or each
    scale = (pairs or study.task.pairs) / study.task.pairs
    pace = Pace(known.seconds_per_pair, known.seconds_per_item * groups * each)
    hour = 3600.0 * processes_of(study)
    runs = {
        variant: (pace.seconds(round(scale * pairs_trained(study, variant))) or 0.0) / hour
        for variant in variants(study)
    }
    trials = {
        variant: len({trial.key for trial in tuning_runs(study, variant, name_in_keys(study))}) for variant in runs
    }
    return Design(
        pairs=pairs or study.task.pairs,
        preferences=scale * preferences(study.task_settings),
        groups=groups,
        items_per_group=each,
        alpha=(1 - study.level) / (len(study.contrasts) or len(study.arms) - 1),
        hours_per_seed=sum(runs.values()),
        hours_once=(pace.seconds(0) or 0.0) / hour + sum(runs[variant] * trials[variant] for variant in runs),
    )


def forecasts(study: StudySettings, known: Earlier, design: Design, seeds: int | None = None) -> list[Forecast]:
    """Say of each contrast what it would see, and how many seeds and hours `TARGET` of the gain takes.

    A study without contrasts is one of its arms against the baseline. Where sides pool several arms, what is
    particular to an arm is taken to be independent of the others.
    """
    sides = {name: (len(one.arms), len(one.against)) for name, one in study.contrasts.items()}
    sides = sides or {f"one arm against {study.baseline}": (1, 1)}
    shape = design.groups, design.items_per_group, design.alpha
    found = []
    for name, (arms, against) in sides.items():
        parts = known.parts.scaled((1 / arms + 1 / against) / 2)
        smallest = smallest_effect(parts, seeds or len(study.seeds), *shape)
        for growth, exponent in GROWTHS.items():
            gain = known.gain * (design.preferences / known.preferences) ** exponent
            needed = seeds_needed(parts, TARGET * gain, *shape) if gain > 0 else None
            found.append(
                Forecast(
                    contrast=name,
                    growth=growth,
                    gain=gain,
                    smallest=smallest,
                    seeds=needed,
                    hours=None if needed is None else design.hours_once + needed * design.hours_per_seed,
                )
            )
    return found


def power_tables(study: StudySettings, known: Earlier) -> list[TextTable]:
    """What each planned contrast would see: a table with a row for each way in which the gain may grow."""
    headings = (
        "gain",
        f"of {study.baseline}",
        "found",
        "of the gain",
        f"seeds for {percent_text(TARGET, 0)}",
        "hours",
    )
    rows: dict[str, list[tuple[str, ...]]] = {}
    for one in forecasts(study, known, design_of(study, known)):
        rows.setdefault(one.contrast, []).append(
            (
                one.growth,
                f"{one.gain:+.2f}",
                f"{one.smallest:.2f}",
                percent_text(one.smallest / one.gain, 0) if one.gain > 0 else "-",
                "-" if one.seeds is None else f"{one.seeds}",
                "-" if one.hours is None else f"{one.hours:.1f}",
            )
        )
    many = len(study.seeds)
    return [TextTable(f"{name}: what {many} seeds find with 80 % power", headings, of) for name, of in rows.items()]


def grounds(known: Earlier) -> str:
    """Say in two sentences what a forecast rests on."""
    parts = known.parts
    unclear = "" if known.gain_is_clear else ", which is not clearly above zero"
    return (
        f"Variance of a difference of two arms, the mean of {known.comparisons} (learning rates "
        f"{', '.join(f'{rate:g}' for rate in known.rates)}), of one draw: seeds {parts.seeds:.4f}, groups of items "
        f"{parts.groups:.4f}, items {parts.items:.4f}, seeds by groups {parts.seeds_by_groups:.4f}, answers "
        f"{parts.answers:.3f}. It is taken to be the same for other numbers of pairs. The baseline gained "
        f"{known.gain:+.2f} of {known.preferences:.0f} pairs that are no ties{unclear}; {known.seconds_per_pair:.2f} "
        f"seconds for each pair trained, {known.seconds_per_item:.2f} for each item measured."
    )


def _gain(results: Results, primary: str) -> Effect:
    """Compare the baseline with the start."""
    study = results.runs["study"]
    by_arm, groups = results.items(primary)
    baseline = as_run(results.runs, study["baseline"])
    if baseline not in by_arm or START not in by_arm:
        raise InputError(f"no run of baseline {baseline} and of the start is in the results of {study['name']}")
    (start,) = by_arm[START].values()
    return compare_arms({baseline: by_arm[baseline]}, start, groups, level=study["level"])[baseline]


def _items(study: StudySettings) -> tuple[int, float]:
    """Return how many groups the items of the test split are in, and the mean number of items of one."""
    logging.disable(logging.INFO)  # which tells of the files that a run reads
    try:
        with TemporaryDirectory() as folder:
            held_out = study.task.held_out("test", Path(folder))
    finally:
        logging.disable(logging.NOTSET)
    labels = held_out.pair_groups if study.primary in PAIR_MEASURES else held_out.prompt_groups
    groups = len(set(labels))
    return groups, len(labels) / groups


def _differences(results: Results, primary: str) -> Iterator[tuple[frozenset[str], float, VarianceParts]]:
    """Yield the parts of every difference of two arms of one learning rate, with the keys of its runs."""
    by_arm, groups = results.items(primary)
    rates = {one["name"]: one["learning_rate"] for one in results.runs["arms"] if one["matched"] != "epochs"}
    keys = {(run["arm"], run["seed"]): run["key"] for run in results.runs["runs"] if run["stage"] == "final"}
    arms = [name for name in by_arm if name != START and rates.get(name) is not None]
    for one, other in combinations(arms, 2):
        seeds = sorted(set(by_arm[one]) & set(by_arm[other]))
        made_of = frozenset(keys[arm, seed] for arm in (one, other) for seed in seeds)
        if rates[one] == rates[other] and len(seeds) > 1 and len(made_of) == 2 * len(seeds):
            values = np.stack([by_arm[one][seed] - by_arm[other][seed] for seed in seeds])
            yield made_of, rates[one], variance_parts(values, groups)
