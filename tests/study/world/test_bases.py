"""The bases that the package holds: small, and like the writers whose answers they have read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from mixdpo.study.world.base import MOST_SKILL, answer_logprobs, pretrain
from mixdpo.study.world.language import Language, finished, lengths
from mixdpo.study.world.measure import own_answers
from mixdpo.study.world.worlds import BASES, WORLDS, base_file, load_base

EVERY = [(name, number) for name in WORLDS for number in range(BASES)]


def typicality(language: Language, base: LlamaForCausalLM) -> float:
    """How the log-probability per token goes with the reward of a base's own answers: a correlation."""
    own = own_answers(language, base, 250, 2, seed=5)
    prompts, answers = np.repeat(own.prompts, 2, axis=0), own.answers.reshape(-1, language.answer_length)
    with torch.no_grad():
        summed = answer_logprobs(base, torch.from_numpy(prompts), torch.from_numpy(answers)).sum(dim=1).numpy()
    return float(np.corrcoef(summed / lengths(answers), own.rewards.ravel())[0, 1])


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_bases_are_small_and_differ(name: str, number: int) -> None:
    assert base_file(name, number).stat().st_size < 1_000_000
    one, other = load_base(name, number), load_base(name, (number + 1) % BASES)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert all(weight.dtype == torch.float32 for weight in one.parameters())
    assert not one.training


@pytest.mark.parametrize("name", WORLDS)
def test_bases_answer_as_the_writers_do_whom_they_have_read(name: str) -> None:
    language, random = WORLDS[name](), np.random.default_rng(3)
    prompts = language.prompts(4000, random)
    answers = language.write(prompts, random.random(4000) * MOST_SKILL, random)
    for number in range(BASES):
        own = own_answers(language, load_base(name, number), 500, 2, seed=1)
        written = own.answers.reshape(-1, language.answer_length)
        assert abs(own.rewards.mean() - language.reward(prompts, answers).mean()) < 0.07
        assert abs(lengths(written).mean() - lengths(answers).mean()) < 1
        assert finished(written).mean() > 0.99
        assert 0.1 < own.rewards.std() < 0.3


@pytest.mark.parametrize(("name", "low", "high"), [("words", 0.6, 1.0), ("letters", -1.0, -0.2), ("lists", 0.1, 0.5)])
def test_good_answers_are_typical_in_one_world_and_untypical_in_another(name: str, low: float, high: float) -> None:
    for number in range(BASES):
        assert low < typicality(WORLDS[name](), load_base(name, number)) < high


def test_pretraining_of_a_seed_repeats_and_learns() -> None:
    language = WORLDS["words"]()
    one, other = (pretrain(language, 0, steps=30, batch=8) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    random = np.random.default_rng(1)
    prompts = language.prompts(200, random)
    answers = language.write(prompts, np.full(200, 0.5), random)
    with torch.no_grad():
        summed = answer_logprobs(one, torch.from_numpy(prompts), torch.from_numpy(answers)).sum()
    assert -summed / lengths(answers).sum() < np.log(len(language.vocabulary)) - 0.3
