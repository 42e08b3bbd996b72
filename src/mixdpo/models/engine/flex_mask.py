"""FlexAttention's mask of a packed row, computed on the row's device from a small table of its segments.

A segment is a prompt with the completion right behind it, or one further completion. Its queries see two ranges of
keys, which end at the query and at the end of the prompt:

    own <= key <= query    or    prompt <= key < prompt_end

Legend: T segments, B blocks of `BLOCK` tokens, P = B * `BLOCK` tokens of the row and of what fills its last block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from mixdpo.models.engine.rows import PackedLayout, to_device

# Queries and keys of a block. For fewer queries PyTorch takes another kernel, which is for decoding and has no form
# for many of them with shared keys (`NoValidChoicesError`).
BLOCK = 128
_NO_WINDOW = 2**30

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's mask function: (batch, head, query, key) -> bool."""


@lru_cache(maxsize=4)  # all layers of a forward pass ask for the same one, or for two
def block_mask(layout: PackedLayout, window: int | None, device: torch.device) -> BlockMask:
    """Return the mask of a packed row: blocks of which all, part or nothing is seen, and the mask function.

    Nothing has S x S elements, and the host waits for nothing. Its part is one copy of 5 T numbers and some fifty
    kernel launches, whatever the row's length.
    """
    own_P, prompt_P, prompt_end_P = _ranges(layout, window, device)
    partial_BB, whole_BB = _blocks(own_P, prompt_P, prompt_end_P)
    blocks_4BB = torch.stack([partial_BB, whole_BB, partial_BB.T, whole_BB.T]).to(torch.uint8)
    counts = blocks_4BB.sum(-1).unbind()
    order = blocks_4BB.argsort(dim=-1, descending=True, stable=True).unbind()  # what is seen stands first
    # Tensors of their own, for kernels want them aligned.
    kv, full_kv, q, full_q = ((n.int()[None, None], i.int()[None, None]) for n, i in zip(counts, order, strict=True))
    length = _length(layout)
    return BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=kv[0],
        kv_indices=kv[1],
        full_kv_num_blocks=full_kv[0],
        full_kv_indices=full_kv[1],
        q_num_blocks=q[0],
        q_indices=q[1],
        full_q_num_blocks=full_q[0],
        full_q_indices=full_q[1],
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=_visible(own_P, prompt_P, prompt_end_P),
    )


def visible(layout: PackedLayout, window: int | None, device: torch.device) -> Visible:
    """Return the mask function of a packed row."""
    return _visible(*_ranges(layout, window, device))


@lru_cache(maxsize=4)
def additive_mask(layout: PackedLayout, window: int | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of a packed row: 0 where a query sees a key, else -inf; (S, S), query first.

    Rows of it begin at multiples of 16 numbers, which PyTorch's kernels want: another mask they would copy in every
    layer.
    """
    own_P, prompt_P, prompt_end_P = _ranges(layout, window, device)
    token = torch.arange(len(own_P), dtype=torch.int32, device=device)
    seen = _visible(own_P, prompt_P, prompt_end_P)(token, token, token[:, None], token)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)
    length = _length(layout)
    return mask[:length, :length]


def _visible(own_P: Tensor, prompt_P: Tensor, prompt_end_P: Tensor) -> Visible:
    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_own = (key >= own_P[query]) & (key <= query)
        return in_own | ((key >= prompt_P[query]) & (key < prompt_end_P[query]))

    return allowed


def _length(layout: PackedLayout) -> int:
    last = layout.groups[-1]
    return last.start + last.prompt + sum(last.completions)


def _segments(layout: PackedLayout) -> list[tuple[int, int, int, int, int]]:
    """Return by segment its first query, its first key, its prompt's two ends, and the tokens from there to it."""
    segments = []
    for group in layout.groups:
        prompt, first = group.start, group.start + group.prompt
        segments.append((prompt, prompt, prompt, first, 0))
        end = first
        for before in [length for length in group.completions if length][:-1]:
            end += before
            segments.append((end, end, prompt, first, end - first))
    # What fills the row up to whole blocks sees itself.
    length = _length(layout)
    segments.append((length, length, length, length + BLOCK, 0))
    return segments


def _ranges(layout: PackedLayout, window: int | None, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return by query `own`, `prompt` and `prompt_end` of the two ranges of keys that it sees, int32, each (P,)."""
    table = torch.tensor(list(zip(*_segments(layout), strict=True)), dtype=torch.int32)
    starts, *columns = to_device(table, device)
    tokens = -(-_length(layout) // BLOCK) * BLOCK
    query = torch.arange(tokens, dtype=torch.int32, device=device)
    segment = torch.searchsorted(starts, query, right=True) - 1
    own, prompt, prompt_end, gap = (column[segment] for column in columns)
    oldest = query - ((window or _NO_WINDOW) - 1)
    return (
        torch.maximum(own, oldest),
        torch.maximum(prompt, oldest - gap),
        torch.minimum(prompt_end, query + 1 - gap),
    )


def _blocks(own_P: Tensor, prompt_P: Tensor, prompt_end_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return which blocks of keys (columns) the queries of a block (rows) see in part, and which wholly; bool (B, B).

    What the queries of a block see before it are two ranges too, for only those of its first group see anything there:
    of the others, ranges begin inside the block.
    """
    ranges_3BQ = torch.stack([own_P, prompt_P, prompt_end_P]).view(3, -1, BLOCK)
    least, most = ranges_3BQ.aminmax(dim=-1, keepdim=True)
    own, prompt, prompt_end = least
    key = torch.arange(0, own_P.shape[0], BLOCK, dtype=torch.int32, device=own_P.device)
    query = key[:, None]
    in_prompt = (key + BLOCK > prompt) & (key < prompt_end) & (prompt < prompt_end)
    seen = ((key + BLOCK > own) | in_prompt) & (key <= query)
    own, prompt, _ = most
    whole = ((key >= own) | ((key >= prompt) & (key + BLOCK <= prompt_end))) & (key < query)
    return seen & ~whole, whole
