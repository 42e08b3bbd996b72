"""Whether FlexAttention runs on the device for a model's heads, found out by running it before training does."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixdpo.models.engine.attention import packed_attention
from mixdpo.models.engine.rows import Group, PackedLayout

# Three segments of some blocks each, long enough for FlexAttention.
_LAYOUT = PackedLayout((Group(0, 400, (390, 310)),), scored=(), shared=())
_TOKENS = 1100
# Largest difference to attention sequence by sequence, relative to the largest value; bfloat16 rounds by 0.01 of it.
_TOLERANCE = 0.05


class HeadShape(NamedTuple):
    """What a layer's attention is asked for."""

    heads: int
    shared_heads: int  # of keys and values
    width: int  # of a query or key
    value_width: int
    dtype: torch.dtype  # of the values, and of all in a packed row


def flex_fault(shapes: Iterable[HeadShape], device: torch.device, trains: bool) -> str | None:
    """Return why FlexAttention does not run on `device` for heads of these shapes, or None.

    It is compiled and run once for each, forward and, where `trains`, backward, and compared with attention sequence
    by sequence. What is compiled here is not compiled again by the first step.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        for shape in shapes:
            if _differs(shape, device, trains):
                return f"its values for {shape.heads} heads of {shape.width} in {shape.dtype} are wrong"
    except (
        Exception
    ) as error:  # the compiler, the driver and the C compiler behind them each raise errors of their own
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return None


def _differs(shape: HeadShape, device: torch.device, trains: bool) -> bool:
    random = torch.Generator(device).manual_seed(0)

    def drawn(heads: int, width: int) -> Tensor:
        x = torch.randn((1, _TOKENS, heads, width), generator=random, device=device, dtype=shape.dtype)
        return x.transpose(1, 2).requires_grad_(trains)  # as a model's projection leaves it

    query, key = drawn(shape.heads, shape.width), drawn(shape.shared_heads, shape.width)
    value, weight = drawn(shape.shared_heads, shape.value_width), drawn(shape.heads, shape.value_width)

    def results(flex: bool) -> list[Tensor]:
        out, _ = packed_attention(nn.Module(), query, key, value, None, packed_layout=_LAYOUT, flex=flex)
        gradients = torch.autograd.grad(out, (query, key, value), weight.detach().transpose(1, 2)) if trains else ()
        return [out.detach(), *gradients]

    with torch.set_grad_enabled(trains):
        both = zip(results(flex=True), results(flex=False), strict=True)
        # Written so that what is not a number differs.
        return not all((a - b).abs().max() <= _TOLERANCE * b.abs().max() for a, b in both)
