"""Losses: pure functions of per-pair log-probabilities. Know nothing of models, files or batches."""

from mixdpo.losses.preference import dpo
from mixdpo.losses.registry import LOSSES, Loss, LossSettings, combined_loss, needs_reference
from mixdpo.losses.sft import mean_nll, sft
from mixdpo.losses.types import PairLogprobs

__all__ = [
    "LOSSES",
    "Loss",
    "LossSettings",
    "PairLogprobs",
    "combined_loss",
    "dpo",
    "mean_nll",
    "needs_reference",
    "sft",
]
