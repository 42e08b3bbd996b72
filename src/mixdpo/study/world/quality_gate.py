"""SFT on those hard pairs alone whose chosen answers are better than what a policy answers without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from transformers import LlamaForCausalLM

from mixdpo.plan.plan import Plan
from mixdpo.study.world.language import Language
from mixdpo.study.world.pairs import WorldPairs
from mixdpo.study.world.sampling import sample

ANSWERS: Final = 4
"""Answers of the policy to each prompt, whose mean reward a chosen answer has to exceed."""


def quality_gated(plan: Plan, pairs: WorldPairs, language: Language, rest: LlamaForCausalLM, seed: int) -> Plan:
    """Return a plan that drops hard pairs whose chosen answers are not worth imitating, and refills their places.

    The judge is the true reward, so that the plan is the best that such a rule can be.

    Args:
        plan: sends its hard pairs to SFT.
        pairs: of the same rows.
        language: the world.
        rest: the policy of the other pairs.
        seed: of the answers.
    """
    hard = np.flatnonzero(plan.is_hard)
    prompts = np.repeat(pairs.prompts[hard], ANSWERS, axis=0)
    uniforms = np.random.default_rng([31, seed]).random((len(prompts), language.answer_length), dtype=np.float32)
    answers, _ = sample(rest, torch.from_numpy(prompts), torch.from_numpy(uniforms), language.answer_length)
    reached = language.reward(prompts, answers.numpy()).reshape(len(hard), ANSWERS).mean(axis=1)
    fails = np.zeros(len(plan), dtype=bool)
    fails[hard] = pairs.reward_chosen[hard] <= reached
    return replace(plan, settings=replace(plan.settings, refill=True)).rerouted(fails, "drop")
