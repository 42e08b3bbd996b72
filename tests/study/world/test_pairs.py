"""Pairs have the quality, noise and share of small margins that their cell says."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from mixdpo.study.world.language import Language
from mixdpo.study.world.pairs import (
    EASY_MARGIN,
    HARD_MARGIN,
    Candidates,
    Cell,
    NaturalCell,
    WorldPairs,
    draw_pairs,
    skill_of_quality,
    written,
)
from mixdpo.study.world.worlds import WORLDS

COUNT = 600
QUALITIES = {"words": (0.35, 0.55, 0.85), "letters": (0.35, 0.55, 0.85), "lists": (0.45, 0.65, 0.85)}
HARD = slice(round(0.7 * COUNT), None)
EASY = slice(round(0.7 * COUNT))


@pytest.fixture(scope="module", params=sorted(WORLDS))
def language(request: pytest.FixtureRequest) -> Language:
    return WORLDS[request.param]()


@pytest.fixture(scope="module")
def own(language: Language) -> Candidates:
    """Writers of any skill, whom a base imitates."""
    random = np.random.default_rng(1)
    return written(language, 0.9 * random.random((2 * COUNT, 8)), random)


def true_margin(pairs: WorldPairs) -> np.ndarray:
    return pairs.reward_chosen - pairs.reward_rejected


def test_controlled_pairs_are_as_their_cell_says(language: Language, own: Candidates) -> None:
    for quality in QUALITIES[language.name]:
        cell = Cell(hard_quality=quality, hard_labels_right=0.75, easy_labels_right=0.9)
        pairs = draw_pairs(language, own, cell, COUNT, seed=1)
        for side, rewards in (("chosen", pairs.reward_chosen), ("rejected", pairs.reward_rejected)):
            assert np.array_equal(language.reward(pairs.prompts, getattr(pairs, side)), rewards)
        assert np.array_equal(pairs.margin, np.abs(true_margin(pairs)))
        assert (pairs.margin[EASY] >= EASY_MARGIN).all()
        assert (pairs.margin[HARD] <= HARD_MARGIN).all()
        assert (pairs.margin > 0).all()
        mean = (pairs.reward_chosen + pairs.reward_rejected)[HARD] / 2
        assert np.abs(mean - quality).max() <= 0.05 + 1e-9
        assert abs(mean.mean() - quality) < 0.02
        for part, right in ((EASY, 0.9), (HARD, 0.75)):
            assert abs((true_margin(pairs)[part] > 0).mean() - right) < 0.09
            assert (pairs.label_right[part] == right).all()


def test_cells_of_a_seed_differ_only_in_what_they_say(language: Language, own: Candidates) -> None:
    cell = Cell(hard_quality=QUALITIES[language.name][1])
    pairs, again = (draw_pairs(language, own, cell, COUNT, seed=2) for _ in range(2))
    for f in fields(WorldPairs):
        assert np.array_equal(getattr(pairs, f.name), getattr(again, f.name))
    better = draw_pairs(language, own, replace(cell, hard_quality=QUALITIES[language.name][2]), COUNT, seed=2)
    surer = draw_pairs(language, own, replace(cell, hard_labels_right=0.75), COUNT, seed=2)
    assert np.array_equal(better.chosen[EASY], pairs.chosen[EASY])
    assert np.array_equal(surer.prompts, pairs.prompts)
    turned = (surer.chosen != pairs.chosen).any(axis=1)
    assert (true_margin(surer)[turned] > 0).all()  # none of those that are right with P .5 is wrong with P .75
    assert not np.array_equal(draw_pairs(language, own, cell, COUNT, seed=3).prompts, pairs.prompts)


def test_hard_pairs_of_its_own_answers_come_from_them(language: Language, own: Candidates) -> None:
    cell = Cell(hard_quality=QUALITIES[language.name][1], hard_source="own")
    pairs = draw_pairs(language, own, cell, COUNT, seed=1)
    those = {answer.tobytes() for answers in own.answers for answer in answers}
    assert {answer.tobytes() for answer in pairs.chosen[HARD]} <= those


def test_a_quality_that_no_answer_has_is_refused(language: Language, own: Candidates) -> None:
    with pytest.raises(ValueError, match=f"hardly any answers of {language.name} have a reward of 1.2"):
        draw_pairs(language, own, Cell(hard_quality=1.2), COUNT, seed=1)


def test_too_few_easy_pairs_are_refused(language: Language, own: Candidates) -> None:
    few = Candidates(own.prompts[:50], own.answers[:50], own.rewards[:50])
    with pytest.raises(ValueError, match="easy pairs of"):
        draw_pairs(language, few, Cell(), COUNT, seed=1)


def test_writers_of_a_quality_have_it_on_average(language: Language) -> None:
    for quality in QUALITIES[language.name]:
        skill = skill_of_quality(language, quality)
        rewards = written(language, np.full((4000, 1), skill), np.random.default_rng(5)).rewards
        assert abs(rewards.mean() - quality) < 0.02


@pytest.mark.parametrize("source", ["writers", "good", "own"])
def test_natural_pairs_are_the_best_of_four_by_a_noisy_rater(language: Language, own: Candidates, source: str) -> None:
    noiseless = draw_pairs(language, own, NaturalCell(source=source, rater_noise=0, scale_step=1e-6), COUNT, seed=1)
    assert (true_margin(noiseless) >= -1e-6).all()
    assert np.allclose(noiseless.margin, true_margin(noiseless), atol=2e-6)

    pairs = draw_pairs(language, own, NaturalCell(source=source), COUNT, seed=1)
    assert np.allclose(pairs.margin / 0.1, np.round(pairs.margin / 0.1))
    assert (pairs.margin == 0).any()
    assert (pairs.label_right >= 0.5).all()
    small, large = pairs.margin <= 0.1, pairs.margin >= 0.3
    assert (true_margin(pairs)[small] > 0).mean() < (true_margin(pairs)[large] > 0).mean()
    assert pairs.label_right[small].mean() < pairs.label_right[large].mean()


def test_good_writers_write_better_pairs(language: Language, own: Candidates) -> None:
    usual, good = (
        draw_pairs(language, own, NaturalCell(source=source), COUNT, seed=1) for source in ("writers", "good")
    )
    assert good.reward_rejected.mean() > usual.reward_rejected.mean() + 0.05
