"""From token ids to log-probabilities of completions. Knows nothing of files, plans or losses."""

from typing import cast

from torch import Tensor, nn

from mixdpo.models.engine.hidden import completion_hidden_sums
from mixdpo.models.engine.layer_kernels import liger_kernels, use_layer_kernels, use_plain_rotary
from mixdpo.models.engine.packed import pack_rows, packed_scores
from mixdpo.models.engine.padded import pad_rows, padded_scores
from mixdpo.models.engine.precision import disable_dropout, hardware_has_bf16
from mixdpo.models.engine.routers import has_routers, router_coefficient
from mixdpo.models.engine.rows import CompletionScores, PackedRows, PaddedRows, PromptGroup, to_device
from mixdpo.models.engine.support import prepare_packing
from mixdpo.models.engine.wrappers import causal_model, without_wrappers
from mixdpo.models.engine.zero3 import is_spread, weights_of, whole

__all__ = [
    "CompletionScores",
    "PackedRows",
    "PaddedRows",
    "PromptGroup",
    "causal_model",
    "completion_hidden_sums",
    "completion_logprobs",
    "completion_scores",
    "disable_dropout",
    "hardware_has_bf16",
    "has_routers",
    "is_spread",
    "liger_kernels",
    "pack_rows",
    "pad_rows",
    "prepare_packing",
    "router_coefficient",
    "to_device",
    "use_layer_kernels",
    "use_plain_rotary",
    "weights_of",
    "whole",
    "without_wrappers",
]


def completion_scores(
    model: nn.Module,
    rows: PackedRows | PaddedRows,
    *,
    alignment: bool = False,
    shared_length: bool = False,
    router_loss: bool = False,
    score_norms: bool = False,
) -> CompletionScores:
    """Return the log-probability of every completion, and what else of `CompletionScores` is asked for.

    Score norms are of packed rows alone.
    """
    if "layout" in rows:
        return packed_scores(model, cast(PackedRows, rows), alignment, shared_length, router_loss, score_norms)
    assert not score_norms
    return padded_scores(model, rows, alignment, shared_length, router_loss)


def completion_logprobs(model: nn.Module, rows: PackedRows | PaddedRows) -> Tensor:
    """Return log pi(completion | prompt) of every completion: float32, shape (completions,), in nats."""
    return completion_scores(model, rows).logprob
