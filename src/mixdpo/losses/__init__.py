"""Losses: pure functions of per-pair log-probabilities. Know nothing of models, files or batches."""

from mixdpo.losses.preference import dpo
from mixdpo.losses.registry import LOSSES, Loss, combined_loss, needs, statistics
from mixdpo.losses.scores import discount_tail, wpo_weight
from mixdpo.losses.settings import LossSettings
from mixdpo.losses.sft import sft
from mixdpo.losses.types import PairLogprobs, Running

__all__ = [
    "LOSSES",
    "Loss",
    "LossSettings",
    "PairLogprobs",
    "Running",
    "combined_loss",
    "discount_tail",
    "dpo",
    "needs",
    "sft",
    "statistics",
    "wpo_weight",
]
