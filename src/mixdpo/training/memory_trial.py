"""Small steps on the run's own device, before the first, that tell what larger ones will take.

Nothing about the model is assumed: adapters, kernels, number formats, sharded weights and checkpointing are as in
the run. Weights stay as they are, and the gradients are thrown away.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mixdpo.models.engine import PromptGroup
from mixdpo.training.memory import Line, StepMemory

_GROUP_TOKENS = 256
_SCORED = 16
GROUPS = (1, 3)
"""Prompts with two completions in the two micro-batches that are measured."""


class Meter(Protocol):
    """Counts bytes of tensors."""

    def alive(self) -> int:
        """Return the bytes now."""

    def restart(self) -> None:
        """Look for the most anew."""

    def most(self) -> int:
        """Return the most since then."""


class AllocatorMeter:
    """Counts what PyTorch's allocator has given out on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def alive(self) -> int:
        """Return the bytes now."""
        return torch.cuda.memory_allocated(self.device)

    def restart(self) -> None:
        """Look for the most anew."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def most(self) -> int:
        """Return the most since then."""
        return torch.cuda.max_memory_allocated(self.device)

    def available(self) -> int:
        """Return what tensors can take on the device, those included that are there."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device)


def trial_groups(number: int, prompt_share: float, all_scored: bool) -> list[PromptGroup]:
    """Return prompts with two completions each, whose prompts have a share of the tokens, each counted once.

    Args:
        number: of prompts.
        prompt_share: of a prompt in its group.
        all_scored: whether all tokens of completions are scored, or few, so that the head takes next to nothing.
    """
    prompt = min(max(round(prompt_share * _GROUP_TOKENS), 1), _GROUP_TOKENS - 2 * _SCORED)
    answer = (_GROUP_TOKENS - prompt) // 2
    mask = [all_scored or place < _SCORED for place in range(answer)]
    return [PromptGroup([1] * prompt, [[1] * answer] * 2, [mask] * 2)] * number


def measure_step(
    forward: Callable[[int], tuple[Tensor, int]],
    forget_gradients: Callable[[], None],
    meter: Meter,
    head: Callable[[int], int],
) -> StepMemory | None:
    """Run forward and backward passes and return what they take, None where the device has no memory for them.

    Args:
        forward: runs a micro-batch of so many prompts; returns a loss and the number of tokens it computed.
        forget_gradients: deletes all gradients.
        meter: of the device.
        head: see `StepMemory`; the trial's own few tokens count as nothing.
    """

    def step(number: int) -> tuple[int, int, int]:
        begin = meter.alive()
        meter.restart()
        loss, tokens = forward(number)
        kept = meter.alive() - begin
        loss.backward()
        return tokens, kept, meter.most() - begin

    first, later = [], []
    try:
        step(GROUPS[0])  # compiles kernels, and what is made once is there afterwards
        forget_gradients()
        begin = meter.alive()
        for number in GROUPS:
            forget_gradients()
            first.append(step(number))
        gradients = meter.alive() - begin
        for number in GROUPS:
            later.append(step(number))
    except torch.OutOfMemoryError:
        return None
    finally:
        forget_gradients()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return StepMemory(
        kept=Line.through(*((tokens, kept) for tokens, kept, _ in later)),
        first=Line.through(*((tokens, most) for tokens, _, most in first)),
        later=Line.through(*((tokens, most) for tokens, _, most in later)),
        gradients=gradients,
        head=head,
    )
