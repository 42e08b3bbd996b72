"""What a planned study would see agrees with simulated studies; parts of a variance are those that were planted."""

from __future__ import annotations

import numpy as np
import pytest

from mixdpo.study.effects import POWER, draw_resamples, effect
from mixdpo.study.power import VarianceParts, pooled, seeds_needed, smallest_effect, variance_parts

PARTS = VarianceParts(seeds=0.008, groups=0.004, items=0.01, seeds_by_groups=0.002, answers=0.4)
ALPHA = 0.05


def simulated(rng: np.random.Generator, seeds: int, groups: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two arms whose variance has `PARTS`, shape (seeds, groups * each), and the group of each item."""
    group = np.repeat(np.arange(groups), each)

    def drawn(variance: float, *shape: int) -> np.ndarray:
        return np.sqrt(variance) * rng.standard_normal(shape)

    return (
        drawn(PARTS.seeds, seeds, 1)
        + drawn(PARTS.groups, groups)[group]
        + drawn(PARTS.items, len(group))
        + drawn(PARTS.seeds_by_groups, seeds, groups)[:, group]
        + drawn(PARTS.answers, seeds, len(group))
    ), group


def test_parts_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(0)
    found = [variance_parts(*simulated(rng, 5, 26, 6)) for _ in range(400)]
    mean = pooled(found)
    for name, planted in vars(PARTS).items():
        values = [getattr(one, name) for one in found]
        error = np.std(values) / np.sqrt(len(values))
        assert getattr(mean, name) == pytest.approx(planted, abs=4 * error)
        assert error < 0.25 * planted or name in ("items", "seeds_by_groups"), "these two are the hardest to tell"


@pytest.mark.parametrize(("seeds", "groups", "each"), [(4, 26, 6), (12, 13, 12)])
def test_a_design_has_the_variance_of_simulated_studies(seeds: int, groups: int, each: int) -> None:
    rng = np.random.default_rng(1)
    means = np.array([simulated(rng, seeds, groups, each)[0].mean() for _ in range(2000)])
    assert PARTS.of_design(seeds, groups, each).total == pytest.approx(means.var(), rel=0.1)
    assert PARTS.scaled(0.5).of_design(seeds, groups, each).total == pytest.approx(means.var() / 2, rel=0.1)


@pytest.mark.parametrize("seeds", [4, 10])
def test_the_smallest_effect_is_found_in_four_of_five_simulated_studies(seeds: int) -> None:
    rng = np.random.default_rng(2)
    size = smallest_effect(PARTS, seeds, 26, 6, ALPHA)
    resamples = draw_resamples(seeds, 26, rng, 400)
    found = 0
    for _ in range(200):
        values, group = simulated(rng, seeds, 26, 6)
        found += effect(values + size, group, resamples).p_value < ALPHA
    # Each of the two tests has that power; both have to agree, and Satterthwaite's degrees err on the safe side.
    assert POWER - 0.12 <= found / 200 <= POWER + 0.08


def test_seeds_needed_are_the_fewest_that_see_the_effect() -> None:
    needed = seeds_needed(PARTS, 0.1, 26, 6, ALPHA)
    assert needed is not None
    assert smallest_effect(PARTS, needed, 26, 6, ALPHA) <= 0.1 < smallest_effect(PARTS, needed - 1, 26, 6, ALPHA)
    assert seeds_needed(PARTS, 5.0, 26, 6, ALPHA) == 2
    # The tasks' own part shrinks with no seed: an effect below it is never seen.
    assert seeds_needed(PARTS, 0.02, 26, 6, ALPHA) is None
    # More prompts of each task take fewer seeds.
    assert (seeds_needed(PARTS, 0.1, 26, 24, ALPHA) or 0) < needed


@pytest.mark.parametrize(("shape", "group"), [((1, 4), [0, 0, 1, 1]), ((3, 4), [0, 0, 0, 0]), ((3, 4), [0, 1, 2, 3])])
def test_what_cannot_be_taken_apart_is_refused(shape: tuple[int, int], group: list[int]) -> None:
    with pytest.raises(ValueError, match="parts need"):
        variance_parts(np.zeros(shape), np.array(group))
