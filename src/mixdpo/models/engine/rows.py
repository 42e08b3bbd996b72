"""What the engine computes: completions grouped under their prompt, laid out in one of two ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor

_T = TypeVar("_T", bound=Any)


@dataclass(frozen=True)
class PromptGroup:
    """Token ids of a prompt and of the completions that follow it, each by itself.

    `masks` tells, by completion, which of its tokens are trained; the others are context only. None: all are.
    """

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    masks: Sequence[Sequence[bool]] | None = None

    def scored_places(self) -> list[np.ndarray]:
        """Return, by completion, the places of its scored tokens, int64: trained ones that something stands before."""
        first = 0 if self.prompt else 1
        if self.masks is None:
            return [np.arange(first, len(completion)) for completion in self.completions]
        return [first + np.flatnonzero(mask[first:]) for mask in self.masks]


@dataclass(frozen=True)
class CompletionScores:
    """What the model says of C completions; float32, shape (C,), in nats, but for the routers' loss.

    Attributes:
        logprob: log pi(completion | prompt), summed over its trained tokens.
        shared_logprob: the same over as many of them as its prompt's shortest completion has; None unless asked for.
        alignment: mean over them of log pi(y_t) - log sum_v pi(v)^2, without gradient; None unless asked for.
        score_norm: norm of the gradient of their mean log-probability with respect to the head's weight, a constant;
            None unless asked for.
        router_loss: loss of a mixture of experts that balances its routers, 0-d, over all tokens of all completions
            each behind its own prompt; None unless asked for, and for a model that gives none.
    """

    logprob: Tensor
    shared_logprob: Tensor | None = None
    alignment: Tensor | None = None
    score_norm: Tensor | None = None
    router_loss: Tensor | None = None


def shared_lengths(scored: Sequence[Sequence[int]]) -> list[int]:
    """Return, by completion, the least number of scored tokens that a completion of its prompt has.

    Args:
        scored: by prompt, the number of scored tokens of each of its completions.
    """
    return [min(counts) for counts in scored for _ in counts]


class PaddedRows(TypedDict):
    """One row per completion, prompt in front, padded on the right. R rows, T tokens of the longest, N scored ones.

    Which tokens are scored is known on the host, as in a packed row, so that no kernel launch waits for the device.
    """

    input_ids: Tensor  # int64 (R, T)
    attention_mask: Tensor  # int64 (R, T)
    row: Tensor  # int64 (N,), the row of each scored token, ascending
    source: Tensor  # int64 (N,), place in its row whose logits predict a scored token
    target: Tensor  # int64 (N,), that token
    scored: list[int]  # by row, number of scored tokens, as `PackedLayout.scored`
    prompt_width: int  # length of the shortest prompt
    shared: list[int]  # by row, see `shared_lengths`


@dataclass(frozen=True)
class Group:
    """Where a group stands in a packed row: its first token, the prompt's length and each completion's."""

    start: int
    prompt: int
    completions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Lengths of a packed row, known on the host so that no kernel launch waits for the device.

    Equal to itself only: every layer looks up the row's mask by it, and hashing all lengths would take longer.

    Attributes:
        groups: in the row's order.
        scored: number of scored tokens of each completion: of its trained ones, without the row's first where the
            prompt is empty, for nothing stands before that to predict it.
        shared: by completion, see `shared_lengths`.
    """

    groups: tuple[Group, ...]
    scored: tuple[int, ...]
    shared: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with completion."""
        return max(group.prompt + length for group in self.groups for length in group.completions)


class PackedRows(TypedDict):
    """All prompts, each once, and all completions in one row of S tokens; N tokens of it are scored."""

    input_ids: Tensor  # int64 (1, S)
    position_ids: Tensor  # int64 (1, S), each completion goes on counting where its prompt ends
    multiplicity: Tensor  # float32 (1, 1, 1, S), in how many rows of one completion each a token would stand
    source: Tensor  # int64 (N,), position in the row whose hidden state predicts a scored token
    target: Tensor  # int64 (N,), that token
    layout: PackedLayout


def to_device(batch: _T, device: torch.device) -> _T:
    """Return a dictionary, or a list, of tensors, dictionaries, lists and plain values with its tensors on `device`.

    Copies to a GPU go through page-locked memory, so that none waits for what the GPU still has to do.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            if device.type == "cuda" and value.device.type == "cpu":
                return value.pin_memory().to(device, non_blocking=True)
            return value.to(device)
        if isinstance(value, list):
            return [moved(entry) for entry in value]
        return {k: moved(v) for k, v in value.items()} if isinstance(value, dict) else value

    result: _T = moved(batch)
    return result
