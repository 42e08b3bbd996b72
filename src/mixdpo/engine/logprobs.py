"""Summed log-probabilities of completions, by one plain forward pass over padded rows."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Shapes: R rows (one completion each), T tokens of the longest row, K logits kept at its end, V vocabulary.


def completion_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    prompt_width: int = 1,
) -> Tensor:
    """Return log pi(completion | prompt) of every row, summed over the completion's tokens.

    Args:
        model: a causal language model of transformers, possibly wrapped by DDP, FSDP or peft.
        input_ids: int64, shape (R, T), prompt followed by completion, padded on the right.
        attention_mask: int64, shape (R, T), 0 on padding.
        completion_mask: bool, shape (R, T), True on the completion's tokens. A row without any gives 0.
        prompt_width: no completion of the batch begins before this position (>= 1). Known on the host, so that
            no logits are made for the positions before it and the device need not be asked.

    Returns:
        float32, shape (R,), in nats. Differentiable unless grad mode is off.
    """
    arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    # The logits at position t predict the token at t + 1: the completions need those from prompt_width - 1 on.
    if prompt_width > 1 and _can_keep_last_logits(model):
        arguments["logits_to_keep"] = input_ids.shape[1] - prompt_width + 1
    logits_RKV = model(**arguments).logits[:, :-1]
    K = logits_RKV.shape[1]
    targets_RK = input_ids[:, -K:]
    mask_RK = completion_mask[:, -K:]

    row_sums = []
    for logits_KV, targets_K, mask_K in zip(logits_RKV, targets_RK, mask_RK, strict=True):
        # Row by row in float32: one row's log-softmax is alive at a time, and only over completion tokens.
        nll = F.cross_entropy(logits_KV[mask_K].float(), targets_K[mask_K], reduction="sum")
        row_sums.append(-nll)
    return torch.stack(row_sums)


def without_wrappers(model: nn.Module) -> Any:
    """Return the model inside DistributedDataParallel or DeepSpeed, with its adapters if it has any."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


def _can_keep_last_logits(model: nn.Module) -> bool:
    inner = without_wrappers(model)
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # peft
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters  # accelerate wraps the instance's
