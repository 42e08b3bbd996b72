"""Whether a model's attention can be packed, found out by asking the model."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from mixdpo.models.engine.attention import FLEX_ATTENTION, PACKED_ATTENTION, UnsupportedAttention, packed_attention
from mixdpo.models.engine.flex_trial import HeadShape, flex_fault
from mixdpo.models.engine.norms import use_lean_norms
from mixdpo.models.engine.packed import pack_rows, packed_scores
from mixdpo.models.engine.padded import pad_rows, padded_scores
from mixdpo.models.engine.rows import PromptGroup, to_device
from mixdpo.models.engine.wrappers import causal_model
from mixdpo.models.engine.zero3 import whole_in_forward

logger = logging.getLogger(__name__)

# Attention that a packed row computes: over all earlier tokens, or over a window of them.
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
# Implementations that a person chose for a reason; the packed row would replace them.
_KEPT = ("eager", "flash_attention", "paged")


def prepare_packing(model: nn.Module, on_gpu: bool, autocast: torch.dtype | None = None) -> str | None:
    """Make a model ready for `packed_scores`, or return why it cannot be.

    A few random tokens go through the model packed and unpacked; it is accepted if every layer's attention was asked
    with the packed layout and the log-probabilities agree. Then its attention and its norms are replaced, which
    changes no weight and no result; a model that is refused stays as it was.

    Args:
        model: a causal language model, perhaps with adapters, not yet wrapped for training.
        on_gpu: whether it will run on the current CUDA device. FlexAttention is used there if a trial of it succeeds
            and the model was not loaded with ``attn_implementation="mixdpo_packed"``.
        autocast: the format in which it will run under autocast, or None.
    """
    inner = causal_model(model)
    config = inner.config.get_text_config()
    before = str(config._attn_implementation)
    layers = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if layers:
        return f"it has layers of {', '.join(sorted(layers))}"
    if before.startswith(_KEPT):
        return f"its attention is set to {before}"
    if inner.get_output_embeddings() is None:
        return "it has no language-model head"
    if any(p.is_meta for p in model.parameters()):
        return "its weights are not all on this process"
    inner.set_attn_implementation(PACKED_ATTENTION)
    with _packed_calls() as calls:
        reason = _difference(model, config, calls)
    if reason is not None:
        inner.set_attn_implementation(before)
        return reason
    use_lean_norms(inner)
    if on_gpu and before != PACKED_ATTENTION:
        shapes = sorted({call._replace(dtype=autocast or call.dtype) for call in calls}, key=repr)
        fault = flex_fault(shapes, torch.device("cuda"), any(p.requires_grad for p in model.parameters()))
        if fault is None:
            inner.set_attn_implementation(FLEX_ATTENTION)
        else:
            _tell_of_fallback(fault)
    return None


@lru_cache  # once, not for the policy and for its reference
def _tell_of_fallback(fault: str) -> None:
    logger.warning(
        "FlexAttention does not run on this device, so scaled_dot_product_attention computes attention sequence by "
        "sequence, with the same values and slower (%s)",
        fault,
    )


@contextmanager
def _packed_calls() -> Iterator[list[HeadShape]]:
    """Collect what the packed attention is asked for, call by call."""
    seen: list[HeadShape] = []

    def listening(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("packed_layout") is not None:
            seen.append(HeadShape(query.shape[1], key.shape[1], query.shape[-1], value.shape[-1], value.dtype))
        return packed_attention(module, query, key, value, *args, **kwargs)

    AttentionInterface.register(PACKED_ATTENTION, listening)
    try:
        yield seen
    finally:
        AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _difference(model: nn.Module, config: Any, calls: list[HeadShape]) -> str | None:
    """Return how the packed forward differs from the padded one on a few random tokens, or None.

    `calls` collects what the packed attention is asked for meanwhile.
    """
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(config.vocab_size) for _ in range(length)]

    groups = [PromptGroup(ids(5), [ids(4), ids(3)]), PromptGroup(ids(2), [ids(1), ids(6)])]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), whole_in_forward(model):
            packed = packed_scores(model, to_device(pack_rows(groups), device), router_loss=True)
            plain = padded_scores(model, to_device(pad_rows(groups, 0), device), router_loss=True)
    except UnsupportedAttention as error:
        return f"its attention needs {error}"
    except (TypeError, ValueError, RuntimeError) as error:
        return f"its forward does not take a packed row ({error})"
    finally:
        model.train(training)
    if len(calls) < config.num_hidden_layers:
        return f"{config.num_hidden_layers - len(calls)} of its layers do not pass on the packed layout"
    for name, values in (("its", plain.logprob), ("packed", packed.logprob)):
        if not torch.isfinite(values).all():
            return f"{name} log-probabilities of a few random tokens are not finite"
    # Rounding moves a token's log-probability by some of the format's steps; a leak or a wrong position moves it more.
    coarse = next(model.parameters()).dtype != torch.float32
    for what, ours, theirs in (
        ("log-probabilities are", packed.logprob, plain.logprob),
        ("losses of its routers are", packed.router_loss, plain.router_loss),
    ):
        if ours is None or theirs is None:
            continue
        if not torch.allclose(ours, theirs, atol=0.3 if coarse else 1e-3, rtol=0.02 if coarse else 1e-4):
            return f"packed {what} off by up to {float((ours - theirs).abs().max()):.2g}"
    return None
