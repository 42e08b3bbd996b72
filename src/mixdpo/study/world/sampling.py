"""Answers of a world's policy, drawn with given random numbers, so that policies are compared on the same draws."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from mixdpo.generation.decoding import CACHE
from mixdpo.study.world.language import END, PAD

_ENOUGH_ENDED: Final = 0.2
"""Share of the rows whose end is worth taking them out of the cache."""


@torch.no_grad()
def sample(model: LlamaForCausalLM, prompts: Tensor, uniforms: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """Answer prompts (int64, shape (N, P)).

    Special tokens but the end are never drawn; what is left has the rest's probability.

    Args:
        model: the policy.
        prompts: all of one length; one that stands in several rows, one below the other, is computed once.
        uniforms: float32 in [0, 1), shape (N, length): token t is the inverse of the distribution function at
            `uniforms[:, t]`; None answers greedily.
        length: most tokens of an answer.

    Returns:
        Answers, int64, shape (N, length), `<pad>` behind their ends, and the mean entropy of the distributions that
        their tokens were drawn from, float32, shape (N,), nats.
    """
    answers, entropy = torch.full((len(prompts), length), PAD), torch.zeros(len(prompts))
    cache = DynamicCache()
    once, prompt_of_row = torch.unique_consecutive(prompts, dim=0, return_inverse=True)
    logits = _next_logits(model, once, cache)[prompt_of_row]
    cache.batch_select_indices(prompt_of_row)
    rows, is_open = torch.arange(len(prompts)), torch.ones(len(prompts), dtype=torch.bool)
    for t in range(length):
        logits[:, :END] = -torch.inf
        probabilities = torch.softmax(logits, dim=-1)
        tokens = _chosen(probabilities, None if uniforms is None else uniforms[rows, t])
        answers[rows, t] = torch.where(is_open, tokens, PAD)
        entropy[rows] += torch.where(is_open, torch.special.entr(probabilities).sum(dim=-1), 0.0)
        is_open &= tokens != END
        if t + 1 == length or not is_open.any():
            break
        if (~is_open).float().mean() > _ENOUGH_ENDED:
            cache.batch_select_indices(is_open.nonzero()[:, 0])
            rows, is_open = rows[is_open], is_open[is_open]
        logits = _next_logits(model, answers[rows, t : t + 1], cache)
    return answers, entropy / (answers != PAD).sum(dim=1)


def _next_logits(model: LlamaForCausalLM, ids: Tensor, cache: DynamicCache) -> Tensor:
    """Return the logits of what follows `ids` (int64, shape (N, T)); float32, shape (N, V)."""
    logits: Tensor = model(input_ids=ids, use_cache=True, logits_to_keep=1, **{CACHE: cache}).logits
    return logits[:, -1].float()


def _chosen(probabilities: Tensor, uniforms: Tensor | None) -> Tensor:
    """Return of each row (N, V) the first token up to which its sum exceeds its number (N,), or the likeliest one."""
    if uniforms is None:
        return probabilities.argmax(dim=-1)
    tokens = (probabilities.cumsum(dim=-1) <= uniforms[:, None]).sum(dim=-1)
    last = probabilities.shape[-1] - 1  # where rounding leaves the sum below the number
    return tokens.clamp(max=last)
