"""Whether a model's attention can be packed, found out by asking the model."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from mixdpo.models.engine.attention import FLEX_ATTENTION, PACKED_ATTENTION, UnsupportedAttention, packed_attention
from mixdpo.models.engine.norms import use_lean_norms
from mixdpo.models.engine.packed import pack_rows, packed_scores
from mixdpo.models.engine.padded import pad_rows, padded_scores
from mixdpo.models.engine.rows import PackedLayout, PromptGroup, to_device
from mixdpo.models.engine.wrappers import causal_model
from mixdpo.models.engine.zero3 import whole_in_forward

# Attention that a packed row computes: over all earlier tokens, or over a window of them.
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
# Implementations that a person chose for a reason; the packed row would replace them.
_KEPT = ("eager", "flash_attention", "paged")


def prepare_packing(model: nn.Module, on_gpu: bool) -> str | None:
    """Make a model ready for `packed_scores`, or return why it cannot be.

    A few random tokens go through the model packed and unpacked; it is accepted if every layer's attention was asked
    with the packed layout and the log-probabilities agree. Then its attention and its norms are replaced, which
    changes no weight and no result; a model that is refused stays as it was.

    Args:
        model: a causal language model, perhaps with adapters, not yet wrapped for training.
        on_gpu: whether it will run on a CUDA device, where FlexAttention is used unless the model was loaded with
            ``attn_implementation="mixdpo_packed"`` or Triton is missing.
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
    reason = _difference(model, config)
    if reason is not None:
        inner.set_attn_implementation(before)
        return reason
    use_lean_norms(inner)
    if on_gpu and before != PACKED_ATTENTION and importlib.util.find_spec("triton") is not None:
        inner.set_attn_implementation(FLEX_ATTENTION)
    return None


@contextmanager
def _packed_calls() -> Iterator[list[PackedLayout]]:
    """Collect the layouts that reach the packed attention."""
    seen: list[PackedLayout] = []

    def listening(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("packed_layout") is not None:
            seen.append(kwargs["packed_layout"])
        return packed_attention(*args, **kwargs)

    AttentionInterface.register(PACKED_ATTENTION, listening)
    try:
        yield seen
    finally:
        AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _difference(model: nn.Module, config: Any) -> str | None:
    """Return how the packed forward differs from the padded one on a few random tokens, or None."""
    draw = random.Random(0)

    def ids(length: int) -> list[int]:
        return [draw.randrange(config.vocab_size) for _ in range(length)]

    groups = [PromptGroup(ids(5), [ids(4), ids(3)]), PromptGroup(ids(2), [ids(1), ids(6)])]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), whole_in_forward(model), _packed_calls() as seen:
            packed = packed_scores(model, to_device(pack_rows(groups), device), router_loss=True)
            plain = padded_scores(model, to_device(pad_rows(groups, 0), device), router_loss=True)
    except UnsupportedAttention as error:
        return f"its attention needs {error}"
    except (TypeError, ValueError, RuntimeError) as error:
        return f"its forward does not take a packed row ({error})"
    finally:
        model.train(training)
    if len(seen) < config.num_hidden_layers:
        return f"{config.num_hidden_layers - len(seen)} of its layers do not pass on the packed layout"
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
