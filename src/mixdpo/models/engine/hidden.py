"""Sums of the hidden states that predict a completion's trained tokens."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mixdpo.models.engine.packed import HeadForward, packed_forward, replaced_lm_head
from mixdpo.models.engine.padded import padded_forward
from mixdpo.models.engine.rows import PackedRows, PaddedRows


def completion_hidden_sums(model: nn.Module, rows: PackedRows | PaddedRows) -> Tensor:
    """Return, for every completion, the sum of the last layer's hidden states that predict its trained tokens.

    For a completion of T tokens, all trained, these are T states: that of the prompt's last token, and those of the
    completion without its last. They are what enters the language-model head, so after the final norm.

    Args:
        model: a causal language model, possibly wrapped by DDP or peft.
        rows: from `pack_rows` (for a model that `prepare_packing` accepted) or `pad_rows`, on the model's device.

    Returns:
        float32, shape (number of completions, hidden size).
    """
    entered: list[Tensor] = []

    def keep(lm_head: nn.Module, plain: HeadForward, hidden: Tensor) -> Tensor:
        entered.append(hidden)
        return hidden[..., :1]  # logits that nobody reads

    with replaced_lm_head(model, keep):
        if "layout" in rows:
            packed = cast(PackedRows, rows)
            packed_forward(model, packed)
            states_NE = entered[0][0, packed["source"]].float()
            return torch.stack([part.sum(0) for part in states_NE.split(packed["layout"].scored)])
        padded_forward(model, rows)
    source_of_row = rows["source"].split(rows["scored"])
    return torch.stack([h[source].float().sum(0) for h, source in zip(entered[0], source_of_row, strict=True)])
