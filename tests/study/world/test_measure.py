"""What is measured of a policy, and that policies of a seed are compared on the same prompts and draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixdpo.study.world import measure as measure_module
from mixdpo.study.world.language import finished, lengths
from mixdpo.study.world.measure import measure, own_answers
from mixdpo.study.world.worlds import WORLDS, load_base

LANGUAGE = WORLDS["words"]()


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "PROMPTS", 64)


def test_measures_repeat_and_follow_the_seed() -> None:
    base = load_base("words", 0)
    assert measure(LANGUAGE, base, 1) == measure(LANGUAGE, base, 1)
    assert measure(LANGUAGE, base, 1)["reward"] != measure(LANGUAGE, base, 2)["reward"]


def test_common_random_numbers_take_most_of_the_noise_out_of_a_difference() -> None:
    base, moved = load_base("words", 0), load_base("words", 0)
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.05)

    def difference(of_base: int, of_moved: int) -> float:
        return measure(LANGUAGE, moved, of_moved)["reward"] - measure(LANGUAGE, base, of_base)["reward"]

    paired = np.std([difference(seed, seed) for seed in range(5)])
    apart = np.std([difference(seed, seed + 100) for seed in range(5)])
    assert paired < 0.6 * apart


def test_own_answers_are_given_with_their_rewards() -> None:
    own = own_answers(LANGUAGE, load_base("words", 1), 30, 4, seed=2)
    assert own.answers.shape == (30, 4, LANGUAGE.answer_length)
    for k in range(4):
        assert np.array_equal(LANGUAGE.reward(own.prompts, own.answers[:, k]), own.rewards[:, k])


def test_large_draws_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = own_answers(LANGUAGE, load_base("words", 0), 40, 4, seed=3)
    monkeypatch.setattr(measure_module, "_AT_ONCE", 48)
    parts = own_answers(LANGUAGE, load_base("words", 0), 40, 4, seed=3)
    assert np.array_equal(whole.answers, parts.answers)


def test_ends_and_lengths_are_those_of_the_sampled_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    base, seen = load_base("lists", 0), []
    language = WORLDS["lists"]()
    reward = type(language).reward
    monkeypatch.setattr(
        type(language), "reward", lambda self, prompts, answers: seen.append(answers) or reward(self, prompts, answers)
    )
    found = measure(language, base, 1)
    sampled, greedy = seen
    assert sampled.shape[0] == 64 * measure_module.SAMPLES
    assert found["finished"] == finished(sampled).mean()
    assert found["tokens"] == lengths(sampled).mean()
    assert found["greedy_finished"] == finished(greedy).mean()
    assert 0 < found["entropy"] < np.log(len(language.vocabulary))
