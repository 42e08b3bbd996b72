"""From tokenised pairs to the tensors of a micro-batch.

A completion that a pair's route does not need is not there: an SFT-routed pair brings only the answer it imitates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import NotRequired

from mixdpo.models.engine import PackedRows, PaddedRows, PromptGroup, pack_rows
from mixdpo.training.micro_batches import PairSize, even_parts


@dataclass(frozen=True)
class PairItem:
    """One pair as the training step needs it.

    Attributes:
        row: index in the loaded data set.
        prompt_ids: token ids shared by both completions.
        chosen_ids: token ids of the chosen completion, None if no loss reads it.
        rejected_ids: token ids of the rejected completion, None if no loss reads it.
        preference: whether the loss of the preference route applies.
        hard: whether a loss other than SFT applies that hard pairs are routed to.
        sft_chosen: weight of the SFT loss on the chosen answer (0: none).
        sft_rejected: weight of the SFT loss on the rejected answer (0: none).
        bucket: 0 easy, 1 middle, 2 hard, -1 unknown.
        margin: the plan's margin, NaN if it has none.
        weight: 1, or 0 for a copy that only fills up a batch.
        ref_chosen: reference log-probability of the chosen answer in nats, NaN if not needed.
        ref_rejected: the same of the rejected answer.
        tie: whether the preference loss is of a tie.
        pair_weight: the plan's factor of the pair's loss.
        label_probability: the plan's probability that the label is right.
        chosen_mask: which tokens of the chosen completion are trained, None for all.
        rejected_mask: the same of the rejected completion.
        mismatched: the pair's prompt with both answers to another prompt, if a loss reads it.
        micro_batches: in how many of them the pair's batch is computed.
    """

    row: int
    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int] | None
    rejected_ids: Sequence[int] | None
    preference: bool
    hard: bool
    sft_chosen: float
    sft_rejected: float
    bucket: int
    margin: float
    weight: float
    ref_chosen: float
    ref_rejected: float
    tie: bool = False
    pair_weight: float = 1.0
    label_probability: float = 1.0
    chosen_mask: Sequence[bool] | None = None
    rejected_mask: Sequence[bool] | None = None
    mismatched: PairItem | None = None
    micro_batches: int = 1

    @property
    def size(self) -> PairSize:
        """What the pair brings to a micro-batch."""
        answers = [len(ids) for ids in (self.chosen_ids, self.rejected_ids) if ids is not None]
        prompt = len(self.prompt_ids)
        return PairSize(prompt + sum(answers), len(answers), prompt + max(answers))


class PairBatch(TypedDict):
    """A micro-batch of B pairs; a pair has a completion only where its route needs it."""

    row: Tensor  # int64 (B,)
    weight: Tensor  # float32 (B,)
    chosen_index: Tensor  # int64 (B,), the pair's chosen completion in `rows`, -1 if it has none
    rejected_index: Tensor  # int64 (B,), the pair's rejected completion in `rows`, -1 if it has none
    chosen_tokens: Tensor  # float32 (B,), trained ones
    rejected_tokens: Tensor  # float32 (B,), trained ones
    prompt_tokens: Tensor  # float32 (B,)
    preference: Tensor  # bool (B,)
    tie: Tensor  # bool (B,), of those with a preference loss
    hard: Tensor  # bool (B,)
    sft_chosen: Tensor  # float32 (B,)
    sft_rejected: Tensor  # float32 (B,)
    preference_index: Tensor  # int64 (P,), the pairs with a preference loss, known without asking the device
    hard_index: Tensor  # int64 (Q,), the pairs with a hard loss other than SFT
    compared_index: Tensor  # int64 (R,), the pairs of either
    bucket: Tensor  # int64 (B,)
    margin: Tensor  # float32 (B,)
    pair_weight: Tensor  # float32 (B,), factor of the pair's loss
    label_probability: Tensor  # float32 (B,)
    ref_chosen: Tensor  # float32 (B,), nats
    ref_rejected: Tensor  # float32 (B,), nats
    rows: PackedRows | PaddedRows  # prompts and completions
    compared_rows: NotRequired[
        PackedRows | PaddedRows
    ]  # their prompts and completions once more, for a live reference
    mismatched: NotRequired[PairBatch]  # the pairs' prompts with answers to other prompts


class MicroBatches(TypedDict):
    """What one forward and backward pass after the other computes."""

    parts: list[PairBatch]


RowLayout = Callable[[Sequence[PromptGroup]], PackedRows | PaddedRows]


def collate_parts(
    items: Sequence[PairItem], lay_out: RowLayout, live_reference: bool = False, in_step: bool = False
) -> MicroBatches:
    """Make micro-batches of consecutive pairs, as many as the pairs say and as even as can be."""
    lengths = even_parts([item.size for item in items], items[0].micro_batches, padded=lay_out is not pack_rows)
    rest = iter(items)
    parts = [list(islice(rest, length)) for length in lengths]
    return MicroBatches(parts=[collate_pairs(part, lay_out, live_reference, in_step) for part in parts])


def collate_pairs(
    items: Sequence[PairItem], lay_out: RowLayout, live_reference: bool = False, in_step: bool = False
) -> PairBatch:
    """Make a micro-batch. Copies of weight 0 beside other pairs bring no completion.

    Args:
        items: the pairs.
        lay_out: how the engine wants prompts and completions: `pack_rows`, or `pad_rows` with its padding.
        live_reference: lay out the pairs with two answers once more by themselves, for the reference to compute.
        in_step: processes wait for each other, so where there is no such pair one runs for nothing.
    """
    index = {"chosen": [-1] * len(items), "rejected": [-1] * len(items)}
    tokens = {"chosen": [0.0] * len(items), "rejected": [0.0] * len(items)}
    count = 0
    computed = [b for b, item in enumerate(items) if item.weight] or range(len(items))
    for b in computed:
        for side, (_, mask) in _answers(items[b]).items():
            index[side][b], tokens[side][b] = count, float(sum(mask))
            count += 1

    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(item, name) for item in items], dtype=dtype)

    batch = PairBatch(
        row=column("row", torch.int64),
        weight=column("weight", torch.float32),
        chosen_index=torch.tensor(index["chosen"]),
        rejected_index=torch.tensor(index["rejected"]),
        chosen_tokens=torch.tensor(tokens["chosen"]),
        rejected_tokens=torch.tensor(tokens["rejected"]),
        prompt_tokens=torch.tensor([float(len(item.prompt_ids)) for item in items]),
        preference=column("preference", torch.bool),
        tie=column("tie", torch.bool),
        preference_index=_where(item.preference for item in items),
        hard=column("hard", torch.bool),
        hard_index=_where(item.hard for item in items),
        compared_index=_where(item.preference or item.hard for item in items),
        sft_chosen=column("sft_chosen", torch.float32),
        sft_rejected=column("sft_rejected", torch.float32),
        bucket=column("bucket", torch.int64),
        margin=column("margin", torch.float32),
        pair_weight=column("pair_weight", torch.float32),
        label_probability=column("label_probability", torch.float32),
        ref_chosen=column("ref_chosen", torch.float32),
        ref_rejected=column("ref_rejected", torch.float32),
        rows=lay_out([_group(items[b]) for b in computed]),
    )
    compared = [item for item in items if item.preference or item.hard]
    if live_reference and (compared or in_step):
        batch["compared_rows"] = lay_out([_group(item) for item in compared or items[:1]])
    mismatched = [item.mismatched for item in compared or items[:1] if item.mismatched is not None]
    if mismatched:
        batch["mismatched"] = collate_pairs(mismatched, lay_out, live_reference, in_step)
    return batch


def _where(flags: Iterable[bool]) -> Tensor:
    return torch.tensor([index for index, flag in enumerate(flags) if flag], dtype=torch.int64)


def _answers(item: PairItem) -> dict[str, tuple[Sequence[int], Sequence[bool]]]:
    """Return, by side, the ids of a pair's answers that a loss reads, and which of them are trained."""
    sides = {
        "chosen": (item.chosen_ids, item.chosen_mask),
        "rejected": (item.rejected_ids, item.rejected_mask),
    }
    return {
        side: (ids, [True] * len(ids) if mask is None else mask)
        for side, (ids, mask) in sides.items()
        if ids is not None
    }


def _group(item: PairItem) -> PromptGroup:
    answers = _answers(item).values()
    return PromptGroup(item.prompt_ids, [ids for ids, _ in answers], [mask for _, mask in answers])
