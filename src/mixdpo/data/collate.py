"""From tokenised pairs to the tensors of a micro-batch. The only file that knows the layout.

A pair occupies up to two rows, one per completion, each with the prompt in front. Rows that a pair's route does
not need are not made: an SFT-routed pair has only the row of the answer it imitates.

Legend: B pairs, R rows (R <= 2 B), T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairItem:
    """One pair as the training step needs it.

    Attributes:
        row: index in the loaded data set.
        prompt_ids: token ids shared by both completions.
        chosen_ids: token ids of the chosen completion, None if no loss reads it.
        rejected_ids: token ids of the rejected completion, None if no loss reads it.
        preference: whether the preference loss applies.
        sft_chosen: weight of the SFT loss on the chosen answer (0: none).
        sft_rejected: weight of the SFT loss on the rejected answer (0: none).
        bucket: 0 easy, 1 middle, 2 hard, -1 unknown.
        weight: 1, or 0 for a copy that only fills up a batch.
        ref_chosen: reference log-probability of the chosen answer in nats, NaN if not needed.
        ref_rejected: the same of the rejected answer.
    """

    row: int
    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int] | None
    rejected_ids: Sequence[int] | None
    preference: bool
    sft_chosen: float
    sft_rejected: float
    bucket: int
    weight: float
    ref_chosen: float
    ref_rejected: float


class PairBatch(TypedDict):
    """A micro-batch; see the legend on top of the file. `prompt_width` is the shortest prompt's length."""

    input_ids: Tensor  # int64 (R, T), padded on the right
    attention_mask: Tensor  # int64 (R, T)
    completion_mask: Tensor  # bool (R, T)
    chosen_index: Tensor  # int64 (B,), the pair's chosen row, -1 if it has none
    rejected_index: Tensor  # int64 (B,), the pair's rejected row, -1 if it has none
    chosen_tokens: Tensor  # float32 (B,)
    rejected_tokens: Tensor  # float32 (B,)
    preference: Tensor  # bool (B,)
    sft_chosen: Tensor  # float32 (B,)
    sft_rejected: Tensor  # float32 (B,)
    bucket: Tensor  # int64 (B,)
    weight: Tensor  # float32 (B,)
    ref_chosen: Tensor  # float32 (B,), nats
    ref_rejected: Tensor  # float32 (B,), nats
    row: Tensor  # int64 (B,)
    prompt_width: int


def collate_pairs(items: Sequence[PairItem], pad_token_id: int) -> PairBatch:
    """Lay out pairs as padded rows: all chosen rows first, then all rejected rows."""
    rows: list[tuple[Sequence[int], Sequence[int]]] = []
    index = {"chosen": [-1] * len(items), "rejected": [-1] * len(items)}
    for side in ("chosen", "rejected"):
        for b, item in enumerate(items):
            completion = item.chosen_ids if side == "chosen" else item.rejected_ids
            if completion is not None:
                index[side][b] = len(rows)
                rows.append((item.prompt_ids, completion))

    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
    completion_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for r, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        input_ids[r, :end] = torch.tensor([*prompt, *completion])
        attention_mask[r, :end] = 1
        completion_mask[r, len(prompt) : end] = True

    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(item, name) for item in items], dtype=dtype)

    return PairBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        completion_mask=completion_mask,
        chosen_index=torch.tensor(index["chosen"]),
        rejected_index=torch.tensor(index["rejected"]),
        chosen_tokens=torch.tensor([float(len(item.chosen_ids or ())) for item in items]),
        rejected_tokens=torch.tensor([float(len(item.rejected_ids or ())) for item in items]),
        preference=column("preference", torch.bool),
        sft_chosen=column("sft_chosen", torch.float32),
        sft_rejected=column("sft_rejected", torch.float32),
        bucket=column("bucket", torch.int64),
        weight=column("weight", torch.float32),
        ref_chosen=column("ref_chosen", torch.float32),
        ref_rejected=column("ref_rejected", torch.float32),
        row=column("row", torch.int64),
        prompt_width=min(len(prompt) for prompt, _ in rows),
    )
