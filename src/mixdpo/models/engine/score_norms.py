"""How strongly the head's weight moves the log-probabilities of completions: norms of gradients nobody computes.

The gradient of a completion's log-probability with respect to the head's weight is the sum over its tokens of
d_t h_t^T, d_t = onehot(y_t) - softmax of the logits, h_t the hidden state: V times E numbers. The square of its norm
is the sum over pairs of tokens of (d_s . d_t) (h_s . h_t), which takes the products of tokens alone.

Legend: N tokens, E hidden size, V vocabulary, C completions, K tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Tokens whose logits are held at once; of a longer completion two blocks are.
_TOKENS_PER_BLOCK = 1024


@torch.no_grad()
def head_gradient_norms(
    forward: Callable[[Tensor], Tensor], hidden: Tensor, target: Tensor, scored: Sequence[int]
) -> Tensor:
    """Return by completion the norm of its mean log-probability's gradient with respect to the head's weight.

    Args:
        forward: the head, from hidden states to logits. What it may have beside its weight counts as fixed.
        hidden: float, shape (N, E), of the completions' scored tokens one after the other.
        target: int64, shape (N,), those tokens.
        scored: number of them by completion.

    Returns:
        float32, shape (C,), in nats per token and unit of weight.
    """
    squares = []
    for hidden_TE, target_T in zip(hidden.split(scored), target.split(scored), strict=True):
        blocks = list(zip(hidden_TE.split(_TOKENS_PER_BLOCK), target_T.split(_TOKENS_PER_BLOCK), strict=True))
        square = hidden.new_zeros((), dtype=torch.float32)
        for place, (hidden_KE, target_K) in enumerate(blocks):
            residual_KV = _residual(forward, hidden_KE, target_K)
            square += _inner(residual_KV, hidden_KE, residual_KV, hidden_KE)
            for other_KE, other_K in blocks[:place]:
                square += 2 * _inner(residual_KV, hidden_KE, _residual(forward, other_KE, other_K), other_KE)
        squares.append(square / max(len(target_T), 1) ** 2)
    return torch.stack(squares).clamp(min=0).sqrt()


def norm_bytes(vocabulary: int, tokens: int, dtype: torch.dtype) -> int:
    """Return what `head_gradient_norms` takes at most for `tokens` scored tokens, with logits in `dtype`, in bytes."""
    block = min(tokens, _TOKENS_PER_BLOCK) * vocabulary
    return block * (dtype.itemsize + 3 * 4)  # logits, twice in float32, and the residuals of another block


def _residual(forward: Callable[[Tensor], Tensor], hidden_KE: Tensor, target_K: Tensor) -> Tensor:
    softmax_KV = forward(hidden_KE).float().softmax(1)
    return softmax_KV.scatter_add_(1, target_K[:, None], softmax_KV.new_full((len(target_K), 1), -1.0))


def _inner(residual_KV: Tensor, hidden_KE: Tensor, other_KV: Tensor, other_KE: Tensor) -> Tensor:
    with torch.autocast(hidden_KE.device.type, enabled=False):  # which would round the products
        return ((residual_KV @ other_KV.t()) * (hidden_KE.float() @ other_KE.float().t())).sum()
