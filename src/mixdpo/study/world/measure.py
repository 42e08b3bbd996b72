"""What a trained policy of a world is worth: expected reward, and how its answers end, grow and vary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from transformers import LlamaForCausalLM

from mixdpo.study.world.language import Language, finished, lengths
from mixdpo.study.world.pairs import Candidates
from mixdpo.study.world.sampling import sample

PROMPTS: Final = 512
SAMPLES: Final = 4
"""Answers to each prompt at temperature 1."""
_AT_ONCE: Final = 4096


def measure(language: Language, policy: LlamaForCausalLM, seed: int) -> dict[str, float]:
    """Return the mean reward at temperature 1 and of greedy answers, and of both the share that ends.

    Policies of one seed answer the same new prompts with the same random numbers. `tokens` is the mean length,
    `entropy` that of the distributions that tokens were drawn from, in nats, and `spread` the standard deviation of
    rewards.
    """
    random = np.random.default_rng([77, seed])
    prompts = language.prompts(PROMPTS, random)
    repeated = np.repeat(prompts, SAMPLES, axis=0)
    answers, entropy = _answers(language, policy, repeated, random)
    rewards = language.reward(repeated, answers)
    greedy, _ = sample(policy, torch.from_numpy(prompts), None, language.answer_length)
    return {
        "reward": float(rewards.mean()),
        "spread": float(rewards.std()),
        "finished": float(finished(answers).mean()),
        "tokens": float(lengths(answers).mean()),
        "entropy": float(entropy.mean()),
        "greedy": float(language.reward(prompts, greedy.numpy()).mean()),
        "greedy_finished": float(finished(greedy.numpy()).mean()),
    }


def own_answers(language: Language, base: LlamaForCausalLM, prompts: int, each: int, seed: int) -> Candidates:
    """Let a base answer new prompts several times."""
    random = np.random.default_rng([9, seed])
    asked = language.prompts(prompts, random)
    repeated = np.repeat(asked, each, axis=0)
    answers, _ = _answers(language, base, repeated, random)
    shape = (prompts, each)
    return Candidates(asked, answers.reshape(*shape, -1), language.reward(repeated, answers).reshape(shape))


def _answers(
    language: Language, policy: LlamaForCausalLM, prompts: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return sampled answers (N, A) and the mean entropy of their tokens (N,)."""

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(prompts), _AT_ONCE):
            part = torch.from_numpy(prompts[start : start + _AT_ONCE])
            uniforms = torch.from_numpy(random.random((len(part), language.answer_length), dtype=np.float32))
            answers, entropy = sample(policy, part, uniforms, language.answer_length)
            yield answers.numpy(), entropy.numpy()

    answers, entropies = zip(*parts(), strict=True)
    return np.concatenate(answers), np.concatenate(entropies)
