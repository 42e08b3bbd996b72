"""What the head does with a tile of logits on a GPU, each as one compiled kernel.

There a tile has hundreds of megabytes, and what takes time is to read and write it: operation by operation that would
be ten times. Here it is read once by the forward pass, and read and written once by the backward pass.

Legend: N tokens, W width of a tile.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_WIDTH = 2**14
# Elements of a tile, half a gigabyte in bfloat16.
_MOST_ELEMENTS = 2**28


def compiles_tiles(device: torch.device) -> bool:
    """Whether tiles on this device go through compiled kernels."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def compiled_width(tokens: int, vocabulary: int) -> int:
    """Return the width of tiles: nearly equal ones, of few different widths, for each width is compiled anew."""
    tiles = -(-vocabulary // _WIDTH)
    while tokens * vocabulary // tiles > _MOST_ELEMENTS:
        tiles *= 2
    return -(-vocabulary // (32 * tiles)) * 32


def fold_tile(
    logits_NW: Tensor, largest_N1: Tensor, sum_N1: Tensor, squares_N1: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the largest logit so far, and the sum of exp(logit - largest) and, if asked for, of its square."""
    logits_NW = logits_NW.float()
    of_tile_N1 = logits_NW.amax(1, keepdim=True)
    exponentials_NW = (logits_NW - of_tile_N1).exp()
    new_largest_N1 = torch.maximum(largest_N1, of_tile_N1)
    before_N1, here_N1 = (largest_N1 - new_largest_N1).exp(), (of_tile_N1 - new_largest_N1).exp()
    sum_N1 = sum_N1 * before_N1 + exponentials_NW.sum(1, keepdim=True) * here_N1
    if squares_N1 is not None:
        of_squares_N1 = exponentials_NW.square().sum(1, keepdim=True)
        squares_N1 = squares_N1 * before_N1.square() + of_squares_N1 * here_N1.square()
    return new_largest_N1, sum_N1, squares_N1


def softmax_less_onehot(logits_NW: Tensor, logsumexp_N1: Tensor, column_N1: Tensor, of_target_N1: Tensor) -> Tensor:
    """Return softmax - onehot(target) in the logits' format.

    Args:
        logits_NW: the tile.
        logsumexp_N1: float32, over the whole vocabulary.
        column_N1: int64, the target's column; any outside of the tile if it is not in it.
        of_target_N1: float32, softmax - 1 of the target, computed without cancellation.
    """
    softmax_NW = (logits_NW.float() - logsumexp_N1).exp()
    columns_W = torch.arange(logits_NW.shape[1], device=logits_NW.device)
    return torch.where(columns_W == column_N1, of_target_N1, softmax_NW).to(logits_NW.dtype)


def compiled(function: Callable[..., Any], logits_NW: Tensor, *arguments: Any) -> Any:
    """Return function(tile of logits, ...), compiled for any number of tokens and this width of the tile."""
    torch._dynamo.mark_static(logits_NW, 1)  # known widths are read in whole vectors
    return _compiled(function)(logits_NW, *arguments)


@lru_cache(maxsize=2)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
