"""Intervals of studies cover planted effects, and studies without an effect raise no more alarms than they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mixdpo.study.statistics import POWER, compare_arms, draw_resamples, effect

SEEDS, TASKS, PROMPTS = 5, 26, 3
GROUP = np.repeat(np.arange(TASKS), PROMPTS)
STUDIES = 400


class SimulatedTrainer:
    """Trains models whose answers meet each of three demands with a probability that is known on average.

    A prompt's difficulty and a seed's luck (its pairs, shared by all arms) move every arm; an arm's own luck with a
    seed moves that arm; answers are draws. Probabilities stay within (0, 1), so an arm's mean is 3 * `probability`.
    """

    def __init__(self, rng: np.random.Generator, own_luck: float = 0.04) -> None:
        self.rng = rng
        self.own_luck = own_luck
        self.prompt = rng.uniform(-0.1, 0.1, size=(1, len(GROUP))) + rng.uniform(-0.1, 0.1, size=TASKS)[GROUP]
        self.seed = rng.uniform(-0.03, 0.03, size=(SEEDS, 1))

    def demands_met(self, probability: float) -> dict[int, np.ndarray]:
        luck = self.rng.uniform(-self.own_luck, self.own_luck, size=(SEEDS, 1))
        met = self.rng.binomial(3, probability + self.prompt + self.seed + luck)
        return {seed: row.astype(float) for seed, row in enumerate(met)}


def share_bounds(p: float, studies: int = STUDIES) -> tuple[float, float]:
    """Shares that a rate p gives in 999 of 1,000 series of studies."""
    low, high = stats.binom.ppf([0.0005, 0.9995], studies, p) / studies
    return float(low), float(high)


@pytest.mark.parametrize("own_luck", [0.0, 0.06])
def test_planted_effects_are_covered(own_luck: float) -> None:
    rng = np.random.default_rng(1)
    resamples = draw_resamples(SEEDS, TASKS, rng, 2000)
    covered, errors, estimates = 0, [], []
    for _ in range(STUDIES):
        trainer = SimulatedTrainer(rng, own_luck)
        dpo, better = trainer.demands_met(0.40), trainer.demands_met(0.45)
        found = effect(np.stack(list(better.values())) - np.stack(list(dpo.values())), GROUP, resamples)
        covered += found.low <= 0.15 <= found.high
        errors.append(found.standard_error)
        estimates.append(found.estimate)
    low, high = share_bounds(0.95)
    assert low <= covered / STUDIES <= high
    assert np.mean(estimates) == pytest.approx(0.15, abs=4 * np.std(estimates) / np.sqrt(STUDIES))
    # Where seeds add nothing the error errs on the large side: a variance that may not be negative.
    assert 0.93 <= np.sqrt(np.mean(np.square(errors))) / np.std(estimates) <= 1.2


def test_null_studies_raise_false_alarms_at_the_nominal_rate() -> None:
    """Without correction each comparison errs in 5 %; with Holm's, a study of four arms in at most 5 %."""
    rng = np.random.default_rng(2)
    alone = studies = 0
    for _ in range(150):
        trainer = SimulatedTrainer(rng)
        dpo = trainer.demands_met(0.4)
        arms = {f"arm {number}": trainer.demands_met(0.4) for number in range(4)}
        found = compare_arms(arms, dpo, GROUP)
        alone += sum(one.p_value < 0.05 for one in found.values())
        studies += any(one.p_adjusted < 0.05 for one in found.values())
    low, high = share_bounds(0.05, 600)
    assert low / 2 <= alone / 600 <= high * 1.5, "comparisons of a study share the baseline, so the bounds are loose"
    assert studies / 150 <= share_bounds(0.05, 150)[1]


def test_detectable_effect_is_detected_with_the_stated_power() -> None:
    rng = np.random.default_rng(3)
    resamples = draw_resamples(SEEDS, TASKS, rng, 2000)

    def study(gain: float) -> tuple[float, bool]:
        trainer = SimulatedTrainer(rng)
        sides = [np.stack(list(trainer.demands_met(p).values())) for p in (0.4, 0.4 + gain / 3)]
        found = effect(sides[1] - sides[0], GROUP, resamples)
        return found.detectable, found.p_value < 0.05

    # One study estimates it with a skewed error; its square is right on average.
    detectable = float(np.sqrt(np.mean([study(0.0)[0] ** 2 for _ in range(200)])))
    hits = sum(study(detectable)[1] for _ in range(STUDIES))
    assert hits / STUDIES == pytest.approx(POWER, abs=0.07)


def test_standard_error_is_that_of_the_crossed_analysis_of_variance() -> None:
    """With groups of one size: mean squares of seeds, of groups and of both (Searle, Casella and McCulloch 1992)."""
    rng = np.random.default_rng(4)
    values = rng.standard_normal((6, 1)) * 0.3 + rng.standard_normal(40) * 0.5 + rng.standard_normal((6, 40))
    grand, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    cells = values - rows[:, None] - columns + grand
    squares = rows.var(ddof=1) / 6 + columns.var(ddof=1) / 40 - (cells**2).sum() / (5 * 39) / 240
    resamples = draw_resamples(6, 40, rng, 100_000)
    found = effect(values, np.arange(40), resamples)
    assert found.standard_error == pytest.approx(np.sqrt(squares), rel=0.03)
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
    assert copied.standard_error == pytest.approx(once.standard_error, rel=1e-9)


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
