"""Attention inside a packed row: a prompt to itself, a completion to its prompt and to itself, nothing to others.

Registered with transformers' `AttentionInterface` under two names, so that a model's own forward calls it:

- `mixdpo_packed` computes each prompt and each completion by itself. On a CPU short ones (all of them up to
  `DENSE_LENGTH` tokens) are two batched matrix products with the scores kept for the backward pass, several times
  faster there than flash attention; others go through `scaled_dot_product_attention`, whose memory does not grow
  with the square of the length.
- `mixdpo_flex`, for a GPU: FlexAttention (`flex.py`), one kernel over the whole row, compiled once for rows of every
  length.

On a GPU rows of up to `MASKED_LENGTH` tokens are one `scaled_dot_product_attention` with a mask either way, which the
host starts in less than half the time: with so few tokens a GPU waits for the host.

Legend: H query heads, K key-value heads, G = H / K query heads that share one, S tokens of the row, D width of a
query or key, m queries of a segment, n keys they see.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mixdpo.models.engine.flex import fits_flex, flex_segments
from mixdpo.models.engine.flex_mask import additive_mask
from mixdpo.models.engine.rows import Group, PackedLayout

PACKED_ATTENTION = "mixdpo_packed"
FLEX_ATTENTION = "mixdpo_flex"
DENSE_LENGTH = 1024
"""Longest prompt with completion whose attention scores are held whole, in tokens."""
MASKED_LENGTH = 1024
"""Longest row on a GPU whose mask is held whole, in tokens."""


# Arguments of attention functions that change its result and that this one does not compute.
_NOT_COMPUTED = ("softcap", "s_aux", "position_bias")


class UnsupportedAttention(ValueError):
    """The model asks for an attention that the packed row cannot give."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: PackedLayout | None = None,
    sliding_window: int | None = None,
    flex: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: query (1, H, S, D), key and value (1, K, S, D) -> (1, S, H, D).

    Without a layout it is transformers' SDPA attention, so that the same model also evaluates and generates. The
    mask of the interface is not read: the layout tells what a token sees.

    Raises:
        UnsupportedAttention: the model needs soft capping, sinks, a position bias, dropout or attention both ways.
    """
    if packed_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            sliding_window=sliding_window, **kwargs,
        )  # fmt: skip
    wanted = [name for name in _NOT_COMPUTED if kwargs.get(name) is not None]
    causal = kwargs.get("is_causal")
    if wanted or dropout or not (causal if causal is not None else getattr(module, "is_causal", True)):
        raise UnsupportedAttention(", ".join(wanted) or ("dropout" if dropout else "attention that is not causal"))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    # Rotary embeddings leave queries and keys in float32 under autocast; products are in the values' format.
    q, k, v = query.to(value.dtype), key.to(value.dtype), value
    if torch.is_autocast_enabled(v.device.type):
        dtype = torch.get_autocast_dtype(v.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    on_cpu = v.device.type == "cpu"
    if (flex or not on_cpu) and q.shape[2] <= MASKED_LENGTH:
        return _masked_row(q, k, v, scale, packed_layout, sliding_window), None
    if flex and fits_flex(q, v):
        return flex_segments(q, k, v, scale, packed_layout, sliding_window), None
    q, k, v = q[0], k[0], v[0]
    if packed_layout.longest <= DENSE_LENGTH and on_cpu:
        out = _DenseSegments.apply(q, k, v, scale, packed_layout, sliding_window)
    else:
        out = _flash_segments(q, k, v, scale, packed_layout, sliding_window)
    return out[None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionInterface.register(FLEX_ATTENTION, partial(packed_attention, flex=True))
for _name in (PACKED_ATTENTION, FLEX_ATTENTION):
    AttentionMaskInterface.register(_name, sdpa_mask)  # for calls without a layout


def _segments(group: Group) -> Iterator[tuple[int, int, slice | None]]:
    """Yield (first query, number of queries, prompt's slice or None) of a group's prompt and completions."""
    if group.prompt:
        yield group.start, group.prompt, None
    first = group.start + group.prompt
    prompt = slice(group.start, group.start + group.prompt)
    for length in group.completions:
        if length:
            yield first, length, prompt
        first += length


def _seen(x: Tensor, first: int, length: int, prompt: slice | None) -> Tensor:
    """Keys or values (K, S, D) that a segment sees: its prompt's and its own, as (K, n, D)."""
    if prompt is None or prompt.start == prompt.stop:
        return x[:, first : first + length]
    if prompt.stop == first:
        return x[:, prompt.start : first + length]
    return torch.cat([x[:, prompt], x[:, first : first + length]], dim=1)


def _hidden_keys(m: int, n: int, window: int | None, device: torch.device) -> tuple[int, Tensor]:
    """Return the first key column that may be hidden, and a bool mask (m, n - column) of the hidden ones."""
    if window is None or window >= n:
        return n - m, torch.ones((m, m), dtype=torch.bool, device=device).triu_(1)
    distance = torch.arange(n - m, n, device=device)[:, None] - torch.arange(n, device=device)[None]
    return 0, (distance < 0) | (distance >= window)


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale * a @ b, scaled before the result is rounded."""
    return torch.baddbmm(a.new_empty((len(a), a.shape[1], b.shape[2])), a, b, beta=0, alpha=scale)


class _DenseSegments(torch.autograd.Function):
    """Query (H, S, D), key and value (K, S, D) -> (S, H, D). Heads that share keys are rows of one product."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        layout: PackedLayout,
        window: int | None,
    ) -> Tensor:
        H, S, D = query.shape
        K, G = len(key), H // len(key)
        out_SHD = value.new_empty((S, H, value.shape[-1]))
        weights: list[Tensor] = []
        for group in layout.groups:
            for first, m, prompt in _segments(group):
                k_KnD, v_KnD = _seen(key, first, m, prompt), _seen(value, first, m, prompt)
                n = k_KnD.shape[1]
                q_KmD = query[:, first : first + m].reshape(K, G * m, D)
                scores = _scaled_product(q_KmD, k_KnD.transpose(1, 2), scale)
                column, hidden = _hidden_keys(m, n, window, scores.device)
                scores.view(K, G, m, n)[..., column:].masked_fill_(hidden, -torch.inf)
                weight_Kmn = torch.softmax(scores, dim=-1)
                out_SHD[first : first + m] = torch.bmm(weight_Kmn, v_KnD).view(H, m, -1).transpose(0, 1)
                weights.append(weight_Kmn)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.scale, ctx.layout = scale, layout  # type: ignore[attr-defined]
        return out_SHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SHD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        H, _, D = query.shape
        K, G = len(key), H // len(key)
        grad_query = torch.empty_like(query)
        # Float32, for a prompt's keys collect gradients from every completion.
        grad_key = torch.zeros_like(key, dtype=torch.float32)
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        kept = iter(weights)
        for group in ctx.layout.groups:
            for first, m, prompt in _segments(group):
                weight_Kmn = next(kept)
                k_KnD, v_KnD = _seen(key, first, m, prompt), _seen(value, first, m, prompt)
                q_KmD = query[:, first : first + m].reshape(K, G * m, D)
                grad_KmD = grad_SHD[first : first + m].transpose(0, 1).reshape(K, G * m, -1)
                grad_weight = torch.bmm(grad_KmD, v_KnD.transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_weight, weight_Kmn, -1, weight_Kmn.dtype)
                grad_query[:, first : first + m] = _scaled_product(grad_scores, k_KnD, ctx.scale).view(H, m, D)
                for total, part in (
                    (grad_key, _scaled_product(grad_scores.transpose(1, 2), q_KmD, ctx.scale)),
                    (grad_value, torch.bmm(weight_Kmn.transpose(1, 2), grad_KmD)),
                ):
                    total[:, first : first + m] += part[:, part.shape[1] - m :]
                    if prompt is not None:
                        total[:, prompt] += part[:, : part.shape[1] - m]
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _masked_row(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: PackedLayout, window: int | None) -> Tensor:
    """Attention of query (1, H, S, D), key and value (1, K, S, D), as (1, S, H, D), by one product with a mask."""
    mask = additive_mask(layout, window, v.device, v.dtype)
    # Of PyTorch's kernels that take a mask, the one that holds no scores knows nothing of shared heads.
    k, v = (repeat_kv(x, q.shape[1] // x.shape[1]) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


def _flash_segments(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: PackedLayout, window: int | None) -> Tensor:
    """The same by `scaled_dot_product_attention`: prompt and completion together, so that plain causality fits.

    The prompt's own part is computed with every completion and kept once.
    """
    outputs: list[Tensor] = []
    for group in layout.groups:
        first = group.start + group.prompt
        prompt = slice(group.start, first)
        for index, length in enumerate(group.completions):
            q_i, k_i, v_i = (torch.cat([x[:, prompt], x[:, first : first + length]], dim=1)[None] for x in (q, k, v))
            n = group.prompt + length
            mask = None
            if window is not None and window < n:
                mask = ~_hidden_keys(n, n, window, q.device)[1]
            out = F.scaled_dot_product_attention(
                q_i, k_i, v_i, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=len(q) != len(k)
            )
            outputs.append(out[0, :, 0 if index == 0 else group.prompt :])
            first += length
    return torch.cat(outputs, dim=1).transpose(0, 1)
