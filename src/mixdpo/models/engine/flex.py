"""FlexAttention over a packed row: one kernel that skips blocks without any allowed position."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from mixdpo.models.engine.flex_mask import block_mask
from mixdpo.models.engine.rows import PackedLayout

_LEAST_WIDTH = 16  # narrower heads have no FlexAttention kernel on a GPU
_COMPILATIONS = 64

# Rows of a head that PyTorch's own choice of tiles holds in shared memory at once: 128 queries, and 64 keys and
# values, twice.
_OWN_ROWS = 384
# Queries, keys and stages of a forward tile, and the shared memory beside rows and scores, in bytes.
_FORWARD_TILES = ((32, 64, 3), (32, 64, 2), (32, 32, 2), (32, 16, 2), (16, 16, 2))
_SPARE = 4096


def kernel_options(row_bytes: int, item_bytes: int, shared_bytes: int) -> dict[str, int]:
    """Return FlexAttention's `kernel_options` with which its kernels fit a GPU's shared memory.

    PyTorch chooses tiles by the GPU's generation, for the largest GPU of it: heads of 256 in bfloat16 need 150 KB
    forward, where an RTX 3090 or 4090 has 99 KB. Its choice stays where it fits, for that one was measured to be
    fast. The need of a tile is an estimate, held to what `ptxas` reports.

    Args:
        row_bytes: of a query, key or value of one head, its width rounded up to a power of two as the kernels do.
        item_bytes: of a number: 2 or 4.
        shared_bytes: shared memory that one block of threads may have.
    """
    if _OWN_ROWS * row_bytes <= shared_bytes:
        return {}
    # PyTorch's launcher refuses a kernel that takes all there is.
    fitting = (tile for tile in _FORWARD_TILES if _forward_bytes(row_bytes, item_bytes, *tile) < shared_bytes)
    queries, keys, stages = next(fitting, _FORWARD_TILES[-1])
    options = {"fwd_BLOCK_M": queries, "fwd_BLOCK_N": keys, "fwd_num_stages": stages}
    # Backward PyTorch takes 64 x 64 in 16 bits, and 16 x 16 in 32 bits and on a T4.
    if item_bytes == 2 and _backward_bytes(row_bytes, 64) > shared_bytes >= _backward_bytes(row_bytes, 32):
        options |= dict.fromkeys(("bwd_BLOCK_M1", "bwd_BLOCK_N1", "bwd_BLOCK_M2", "bwd_BLOCK_N2"), 32)
        options["bwd_num_stages"] = 2
    return options


def _forward_bytes(row_bytes: int, item_bytes: int, queries: int, keys: int, stages: int) -> int:
    """Keys and values, and the larger of what stands beside them: queries and scores, or float32 outputs."""
    queries_and_scores = queries * row_bytes + 4 * queries * keys + _SPARE
    outputs = queries * row_bytes * 4 // item_bytes
    return 2 * keys * (stages - 1) * row_bytes + max(queries_and_scores, outputs)


def _backward_bytes(row_bytes: int, side: int) -> int:
    """Queries, their gradients, keys and values of a tile, and two matrices of scores."""
    return 4 * side * row_bytes + 8 * side * side


def fits_flex(query: Tensor, value: Tensor) -> bool:
    """Whether FlexAttention has a kernel for queries and values of these widths; the row is longer than a block."""
    return min(query.shape[-1], value.shape[-1]) >= _LEAST_WIDTH


def flex_segments(
    query: Tensor, key: Tensor, value: Tensor, scale: float, layout: PackedLayout, window: int | None
) -> Tensor:
    """Attention of query (1, H, S, D), key and value (1, K, S, D), as (1, S, H, D)."""
    usual = query.shape[-1] ** -0.5
    if not math.isclose(scale, usual):  # given as a number it would be compiled as one that varies
        query = query * (scale / usual)
    attention = _compiled(value.device, max(query.shape[-1], value.shape[-1]), value.dtype)
    mask = block_mask(layout, window, value.device)
    out = attention(query, key, value, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2)


@lru_cache
def _compiled(device: torch.device, width: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """FlexAttention for rows of any length.

    Without `dynamic` the first lengths would each be compiled anew. It is still compiled once with and once without
    gradients, for each set of inputs that have one (adapters), and where sizes happen to be equal. After eight
    compilations PyTorch would compile no more, and compute the scores of the whole row at once, which no GPU has the
    memory for.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _COMPILATIONS)
    options: Any = options_on(device, width, dtype) or None

    def attention(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, enable_gqa: bool) -> Tensor:
        return flex_attention(query, key, value, block_mask=block_mask, enable_gqa=enable_gqa, kernel_options=options)

    return torch.compile(attention, dynamic=True)


def options_on(device: torch.device, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Return `kernel_options` for heads of a width on a device; none where PyTorch's own choice is for that device."""
    if device.type != "cuda" or torch.version.hip is not None:
        return {}
    item_bytes = dtype.itemsize
    row_bytes = (1 << (width - 1).bit_length()) * item_bytes
    properties: Any = torch.cuda.get_device_properties(device)
    return kernel_options(row_bytes, item_bytes, properties.shared_memory_per_block_optin)
