"""Log-probabilities of target tokens from hidden states, without ever holding the logits of all of them.

The vocabulary is walked through in tiles: the forward pass keeps a running float32 log-sum-exp, the backward pass
reads the logits of the first tiles, as many as fit `_KEPT_BYTES`, and computes those of the others once more. So
small batches pay no third matrix product, and large ones pay it instead of memory.

Legend: N tokens, E hidden size, V vocabulary, W width of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mixdpo.models.engine.tiles import compiled, compiled_width, compiles_tiles, fold_tile, softmax_less_onehot

# Elements of a float32 tile. On a CPU a tile should stay in the cache; a GPU wants large products.
_TILE_ELEMENTS = {"cpu": 2**20, "other": 2**26}
_LEAST_WIDTH = 256
# Logits kept between the forward and the backward pass, in bfloat16 1,300 tokens of SmolLM2's vocabulary, on a GPU
# 4,000 of Llama 3's. Activations of a billion weights take as much for a few hundred tokens.
_KEPT_BYTES = {"cpu": 2**27, "other": 2**30}
# Tokens per call of a head that is more than a matrix.
_TOKENS_PER_CALL = 1024


def scores_of_logits(logits: Tensor, target: Tensor, alignment: bool) -> Tensor:
    """Return log softmax(logits)[target], and with `alignment` beside it that minus log sum_v softmax(logits)_v^2.

    Args:
        logits: float, shape (N, V).
        target: int64, shape (N,).
        alignment: whether to add the second column, which has no gradient.

    Returns:
        float32, shape (N, 1), with `alignment` (N, 2), in nats.
    """
    logits = logits.float()
    logprob_N = -F.cross_entropy(logits, target, reduction="none")
    if not alignment:
        return logprob_N[:, None]
    with torch.no_grad():
        log_sum_of_squares_N = (2 * logits).logsumexp(1) - 2 * logits.logsumexp(1)
    return torch.stack([logprob_N, logprob_N.detach() - log_sum_of_squares_N], dim=1)


def target_scores(
    lm_head: nn.Module, forward: Callable[[Tensor], Tensor], hidden: Tensor, target: Tensor, alignment: bool = False
) -> Tensor:
    """Return `scores_of_logits` of lm_head(hidden).

    Args:
        lm_head: the language-model head. A plain `nn.Linear` without bias is computed in tiles of the vocabulary;
            any other (bias, adapters, quantised weights) through its own `forward`, some tokens at a time.
        forward: the head's own forward.
        hidden: float, shape (N, E).
        target: int64, shape (N,).
        alignment: whether to add the column without gradient.
    """
    if _is_tiled(lm_head):
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else lm_head.weight.dtype
        kept_bytes = _KEPT_BYTES["cpu" if device == "cpu" else "other"] if torch.is_grad_enabled() else 0
        return _TiledScores.apply(hidden, lm_head.weight, target, dtype, alignment, kept_bytes)

    def score(hidden: Tensor, target: Tensor) -> Tensor:
        return scores_of_logits(forward(hidden), target, alignment)

    parts = [
        checkpoint(score, h, t, use_reentrant=False) if torch.is_grad_enabled() else score(h, t)
        for h, t in zip(hidden.split(_TOKENS_PER_CALL), target.split(_TOKENS_PER_CALL), strict=True)
    ]
    return torch.cat(parts)


def head_bytes(lm_head: nn.Module, tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Return what `target_scores` and its backward pass take at most beside the hidden states, in bytes.

    Args:
        lm_head: the language-model head.
        tokens: N.
        device: where it runs.
        dtype: of the products.
    """
    weight: Any = lm_head.weight
    if not _is_tiled(lm_head):
        piece = min(tokens, _TOKENS_PER_CALL) * len(weight)
        return piece * (2 * dtype.itemsize + 3 * 4)  # logits and their gradient, float32 in between
    V, E = weight.shape
    width = _tile_width(tokens, V, device)
    tile, logits = (tokens * columns * dtype.itemsize for columns in (width, V))
    kept = min(_KEPT_BYTES["cpu" if device.type == "cpu" else "other"] // tile * tile, logits)
    tiles = tile * (1 if kept == logits else 2) + (0 if compiles_tiles(device) else tokens * width * 4)
    states = (
        tokens * E * (3 * dtype.itemsize + 4)
    )  # rounded, scaled by the gradient, their gradient and a tile's share
    of_weight = V * E * weight.dtype.itemsize + width * E * dtype.itemsize if weight.requires_grad else 0
    return kept + tiles + states + of_weight


def _is_tiled(lm_head: nn.Module) -> bool:
    # Not its class itself, which FSDP2 replaces by a subclass of the same forward; quantised ones have another.
    return isinstance(lm_head, nn.Linear) and type(lm_head).forward is nn.Linear.forward and lm_head.bias is None


def _within(target_N: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Return which targets lie in a tile, (N,), and their columns there, any for the others, (N, 1)."""
    column_N = target_N - start
    return (column_N >= 0) & (column_N < width), column_N.clamp(0, width - 1)[:, None]


def _tile_width(tokens: int, vocabulary: int, device: torch.device) -> int:
    if compiles_tiles(device):
        return compiled_width(tokens, vocabulary)
    elements = _TILE_ELEMENTS.get(device.type, _TILE_ELEMENTS["other"])
    return min(vocabulary, max(_LEAST_WIDTH, elements // max(tokens, 1) // 64 * 64))


class _TiledScores(torch.autograd.Function):
    """hidden (N, E), weight (V, E), target (N,) -> float32 (N, 1 or 2); products in `dtype`, sums in float32."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        dtype: torch.dtype,
        alignment: bool,
        kept_bytes: int,
    ) -> Tensor:
        hidden_NE = hidden.to(dtype)
        N, V = len(hidden), len(weight)
        width = _tile_width(N, V, hidden.device)
        largest_N1 = hidden.new_full((N, 1), -torch.inf, dtype=torch.float32)
        sum_N1 = torch.zeros_like(largest_N1)
        squares_N1 = torch.zeros_like(largest_N1)
        rounded_target_N1 = torch.zeros_like(largest_N1)
        compiles = compiles_tiles(hidden.device)
        buffer = hidden.new_empty((0 if compiles else N, width), dtype=torch.float32)
        kept: list[Tensor] = []
        for start in range(0, V, width):
            tile_WE = weight[start : start + width].to(dtype)
            rounded_NW = hidden_NE @ tile_WE.t()
            kept_bytes -= rounded_NW.nbytes
            if kept_bytes >= 0:
                kept.append(rounded_NW)
            inside_N, column_N1 = _within(target, start, len(tile_WE))
            if compiles:
                rounded_N1 = rounded_NW.gather(1, column_N1).float()
                rounded_target_N1 = torch.where(inside_N[:, None], rounded_N1, rounded_target_N1)
                largest_N1, sum_N1, squares_N1 = compiled(
                    fold_tile, rounded_NW, largest_N1, sum_N1, squares_N1 if alignment else None
                )
                del rounded_NW, tile_WE  # before the next tile is made
                continue
            logits_NW = buffer[:, : len(tile_WE)].copy_(rounded_NW)
            del rounded_NW, tile_WE
            rounded_target_N1 = torch.where(inside_N[:, None], logits_NW.gather(1, column_N1), rounded_target_N1)
            new_largest_N1 = torch.maximum(largest_N1, logits_NW.amax(1, keepdim=True))
            scale_N1 = largest_N1.sub_(new_largest_N1).exp_()
            exponentials_NW = logits_NW.sub_(new_largest_N1).exp_()
            sum_N1.mul_(scale_N1).add_(exponentials_NW.sum(1, keepdim=True))
            if alignment:
                squares_N1.mul_(scale_N1.square_()).add_(exponentials_NW.square_().sum(1, keepdim=True))
            largest_N1 = new_largest_N1
        # The target's logit is not rounded to `dtype`, neither by itself nor in the sum: where it makes up most of the
        # sum, as in a sure token, the one error would else be left without the other.
        target_logit_N1 = (hidden_NE.float() * weight[target].to(dtype).float()).sum(1, keepdim=True)
        exact_N1, rounded_N1 = ((logit - largest_N1).exp_() for logit in (target_logit_N1, rounded_target_N1))
        sum_N1.add_(exact_N1 - rounded_N1)
        if alignment:
            squares_N1.add_(exact_N1.square_() - rounded_N1.square_())
        logsumexp_N1 = sum_N1.log().add_(largest_N1)
        logprob_N = (target_logit_N1 - logsumexp_N1)[:, 0]
        ctx.save_for_backward(hidden_NE, weight, target, logsumexp_N1, logprob_N, *kept)
        ctx.input_dtype = hidden.dtype  # type: ignore[attr-defined]
        if not alignment:
            return logprob_N[:, None]
        return torch.stack([logprob_N, logprob_N - squares_N1[:, 0].log() + 2 * sum_N1[:, 0].log()], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # d logprob / d logits = onehot(target) - softmax. Of a sure token both are near 1, so they are subtracted
        # before they are rounded to `dtype`.
        hidden_NE, weight, target, logsumexp_N1, logprob_N, *kept = ctx.saved_tensors
        grad = grad[:, 0]  # the second column has none
        dtype = hidden_NE.dtype
        N, V = len(hidden_NE), len(weight)
        width = _tile_width(N, V, weight.device)
        scaled_NE = (hidden_NE.float() * -grad[:, None]).to(dtype)
        of_target_N1 = logprob_N.expm1()[:, None]
        grad_hidden = torch.zeros_like(hidden_NE, dtype=torch.float32)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        compiles = compiles_tiles(weight.device)
        buffer = grad_hidden.new_empty((0 if compiles else N, width))
        for number, start in enumerate(range(0, V, width)):
            tile_WE = weight[start : start + width].to(dtype)
            rounded_NW = kept[number] if number < len(kept) else hidden_NE @ tile_WE.t()
            if compiles:
                column_N1 = (target - start)[:, None]
                less_onehot_NW = compiled(softmax_less_onehot, rounded_NW, logsumexp_N1, column_N1, of_target_N1)
                del rounded_NW
            else:
                softmax_NW = buffer[:, : len(tile_WE)].copy_(rounded_NW).sub_(logsumexp_N1).exp_()
                del rounded_NW
                inside_N, column_N1 = _within(target, start, len(tile_WE))
                of_column_N1 = torch.where(inside_N[:, None], of_target_N1, softmax_NW.gather(1, column_N1))
                less_onehot_NW = softmax_NW.scatter_(1, column_N1, of_column_N1).to(dtype)
            grad_hidden.sub_(less_onehot_NW @ tile_WE)
            if grad_weight is not None:
                grad_weight[start : start + width] = less_onehot_NW.t() @ scaled_NE
            del less_onehot_NW, tile_WE  # before the next tile is made
        grad_hidden.mul_(grad[:, None])
        return grad_hidden.to(ctx.input_dtype), grad_weight, None, None, None, None
