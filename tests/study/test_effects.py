"""Intervals of studies cover planted effects, and studies without an effect raise no more alarms than they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mixdpo.evaluation.statistics.paired import holm
from mixdpo.study.effects import POWER, Variances, compare_arms, detectable, draw_resamples, effect

SEEDS, TASKS, PROMPTS = 5, 26, 3
GROUP = np.repeat(np.arange(TASKS), PROMPTS)
STUDIES = 300
PARTS = ("over_seeds", "over_groups", "interaction")


class SimulatedTrainer:
    """Trains models whose answers meet each of three constraints with a probability that is known on average.

    A prompt's difficulty and a seed's luck (its pairs, shared by all arms) move every arm; an arm's own luck with a
    seed moves that arm; answers are draws. Probabilities stay within (0, 1), so an arm's mean is 3 * `probability`.
    """

    def __init__(self, rng: np.random.Generator, own_luck: float = 0.04, seeds: int = SEEDS) -> None:
        self.rng = rng
        self.own_luck = own_luck
        self.prompt = rng.uniform(-0.1, 0.1, size=(1, len(GROUP))) + rng.uniform(-0.1, 0.1, size=TASKS)[GROUP]
        self.seed = rng.uniform(-0.03, 0.03, size=(seeds, 1))

    def demands_met(self, probability: float) -> np.ndarray:
        """Demands met by the models of an arm, shape (seeds, prompts)."""
        luck = self.rng.uniform(-self.own_luck, self.own_luck, size=self.seed.shape)
        return self.rng.binomial(3, probability + self.prompt + self.seed + luck).astype(float)


def share_bounds(p: float, studies: int = STUDIES) -> tuple[float, float]:
    """Shares that a rate p gives in 999 of 1,000 series of studies."""
    low, high = stats.binom.ppf([0.0005, 0.9995], studies, p) / studies
    return float(low), float(high)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("own_luck", [0.0, 0.06])
def test_planted_effects_are_covered(own_luck: float, seeds: int) -> None:
    rng = np.random.default_rng(1)
    resamples = draw_resamples(seeds, TASKS, rng, 2000)
    covered, squares, estimates = 0, [], []
    for _ in range(STUDIES):
        trainer = SimulatedTrainer(rng, own_luck, seeds)
        dpo, better = trainer.demands_met(0.40), trainer.demands_met(0.45)
        found = effect(better - dpo, GROUP, resamples)
        covered += found.low <= 0.15 <= found.high
        squares.append(found.variances.total)
        estimates.append(found.estimate)
    # Intervals are the wider of two, so they may cover more than they say; not less.
    assert share_bounds(0.95)[0] <= covered / STUDIES
    assert np.mean(estimates) == pytest.approx(0.15, abs=4 * np.std(estimates) / np.sqrt(STUDIES))
    # Where seeds add nothing the error errs on the large side: a variance that may not be negative.
    assert 0.93 <= np.sqrt(np.mean(squares)) / np.std(estimates) <= 1.25


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("own_luck", [0.02, 0.06, 0.15])
@pytest.mark.slow
def test_null_studies_name_an_arm_no_more_often_than_they_may(own_luck: float, seeds: int) -> None:
    """Seeds that hardly matter, that matter as much as prompts, and that drown them."""
    rng = np.random.default_rng(2)
    resamples = draw_resamples(seeds, TASKS, rng, 1000)
    alone = named = 0
    for _ in range(STUDIES):
        trainer = SimulatedTrainer(rng, own_luck, seeds)
        dpo = trainer.demands_met(0.4)
        p_values = [effect(trainer.demands_met(0.4) - dpo, GROUP, resamples).p_value for _ in range(5)]
        alone += p_values[0] < 0.05
        named += min(holm(p_values)) < 0.05
    assert alone / STUDIES <= share_bounds(0.05)[1]
    assert named / STUDIES <= share_bounds(0.05)[1]


@pytest.mark.parametrize("seeds", [3, 5])
def test_detectable_effect_is_detected_with_the_stated_power(seeds: int) -> None:
    rng = np.random.default_rng(3)
    resamples = draw_resamples(seeds, TASKS, rng, 2000)
    arms = 4

    def differences(gain: float) -> np.ndarray:
        trainer = SimulatedTrainer(rng, 0.03, seeds)
        return trainer.demands_met(0.3 + gain / 3) - trainer.demands_met(0.3)

    # From the variances of many studies, since those of one are known as badly as its seeds are few.
    known = [effect(differences(0.0), GROUP, resamples) for _ in range(STUDIES)]
    means = {part: np.mean([getattr(one.variances, part) for one in known]) for part in PARTS}
    size = detectable([replace(known[0], variances=replace(known[0].variances, **means))] * arms)
    hits = sum(effect(differences(size), GROUP, resamples).p_value < 0.05 / arms for _ in range(STUDIES))
    assert hits / STUDIES == pytest.approx(POWER, abs=0.08)


def test_standard_error_is_that_of_the_crossed_analysis_of_variance() -> None:
    """With groups of one size: mean squares of seeds, of groups and of both (Searle, Casella and McCulloch 1992)."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((6, 1)) * 0.3 + rng.standard_normal(40) * 0.5 + rng.standard_normal((6, 40))
    grand, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    interaction = values - rows[:, None] - columns + grand
    squares = rows.var(ddof=1) / 6 + columns.var(ddof=1) / 40 - (interaction**2).sum() / (5 * 39) / 240
    resamples = draw_resamples(6, 40, rng, 100_000)
    found = effect(values, np.arange(40), resamples)
    assert found.variances.total == pytest.approx(squares, rel=0.06)
    assert found.estimate == pytest.approx(values.mean())


def test_one_seed_gives_students_t_over_items() -> None:
    values = np.random.default_rng(5).standard_normal((1, 30))
    found = effect(values, np.arange(30), draw_resamples(1, 30, np.random.default_rng(0), 100_000))
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values[0]))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.01)
    assert found.p_value == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue, abs=0.01)


def test_items_of_a_group_are_not_taken_for_independent() -> None:
    """Three copies of every item are no more evidence than one."""
    values = np.random.default_rng(6).standard_normal((4, 30))
    once = effect(values, np.arange(30))
    copied = effect(np.repeat(values, 3, axis=1), np.repeat(np.arange(30), 3))
    assert copied.variances.total == pytest.approx(once.variances.total, rel=1e-9)


def test_equal_differences_give_an_interval_without_width() -> None:
    found = effect(np.full((3, 10), 0.5), np.arange(10))
    assert (found.low, found.high, found.p_value) == pytest.approx((0.5, 0.5, 0.0))
    assert effect(np.zeros((3, 10)), np.arange(10)).p_value == 1.0


def test_arms_are_compared_on_shared_seeds_and_corrected_together() -> None:
    rng = np.random.default_rng(7)
    base = {seed: rng.standard_normal(20) for seed in range(4)}
    arms = {
        "all seeds": {seed: values + 1 + 0.1 * rng.standard_normal(20) for seed, values in base.items()},
        "two seeds": {seed: base[seed] + 0.05 * rng.standard_normal(20) for seed in (0, 3)},
        "none": {9: rng.standard_normal(20)},
    }
    found = compare_arms(arms, base, np.arange(20))
    assert {name: one.seeds for name, one in found.items()} == {"all seeds": 4, "two seeds": 2}
    assert found["all seeds"].estimate == pytest.approx(1, abs=0.1)
    assert found["all seeds"].p_adjusted == pytest.approx(2 * found["all seeds"].p_value)


@pytest.mark.parametrize(
    ("values", "group"),
    [(np.zeros((2, 3)), np.arange(4)), (np.full((2, 3), np.nan), np.arange(3)), (np.zeros((2, 3)), np.zeros(3))],
)
def test_what_cannot_be_compared_is_refused(values: np.ndarray, group: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"differences of shape|groups of items"):
        effect(values, group)


def test_power_is_of_one_design() -> None:
    rng = np.random.default_rng(8)
    effects = [effect(rng.standard_normal((seeds, 20)), np.arange(20)) for seeds in (3, 4)]
    with pytest.raises(ValueError, match="2 designs"):
        detectable(effects)
    # Student's t with two degrees of freedom, two-sided at 5 %: power by the noncentral t distribution.
    found = detectable(effects[:1])
    error, degrees = max(effects[0].variances.tests(), key=lambda test: test[0] / test[1])
    assert found >= error * (stats.t.isf(0.025, degrees) + stats.norm.isf(0.8))


@pytest.mark.parametrize(("seeds", "named"), [(3, 0.01), (10, 0.11)])
def test_lucky_trials_are_not_in_the_intervals(seeds: int, named: float) -> None:
    """Six equal arms, four settings 0.1 apart at most, trials that err by 0.1: what the page of studies says of it."""
    rng = np.random.default_rng(9)
    resamples = draw_resamples(seeds, TASKS, rng, 500)
    settings = np.array([0.0, 0.033, 0.067, 0.1])
    alarms = 0
    for _ in range(STUDIES):
        tuned = [settings[np.argmax(settings + 0.1 * rng.standard_normal(4))] for _ in range(6)]
        trainer = SimulatedTrainer(rng, 0.04, seeds)
        dpo, *others = (trainer.demands_met((1.0 + value) / 3) for value in tuned)
        alarms += min(holm([effect(other - dpo, GROUP, resamples).p_value for other in others])) < 0.05
    assert alarms / STUDIES == pytest.approx(named, abs=0.05)


def test_degrees_of_freedom_are_those_of_the_scarcest_part_at_least() -> None:
    """The formula alone gives 0.4 where most of two parts is their interaction."""
    taken_off = Variances(over_seeds=1.0, over_groups=1.0, interaction=1.9, seeds=3, groups=4)
    assert taken_off.degrees_of_freedom == 2
    assert Variances(over_seeds=0.0, over_groups=1.0, interaction=0.0, seeds=1, groups=4).degrees_of_freedom == 3
    plain = Variances(over_seeds=1.0, over_groups=1.0, interaction=0.0, seeds=3, groups=4)
    assert plain.degrees_of_freedom == pytest.approx(4 / (1 / 2 + 1 / 3)), "Satterthwaite's"
