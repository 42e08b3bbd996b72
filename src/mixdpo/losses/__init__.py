"""Losses: pure functions of per-pair log-probabilities. Know nothing of models, files or batches."""

from mixdpo.losses.loss_settings import LossSettings, OdpoOffset
from mixdpo.losses.preference import dpo
from mixdpo.losses.registry import LOSSES, Loss, combined_loss, needs, reads_divergence, statistics
from mixdpo.losses.scores import FDivergence, discount_tail, wpo_weight
from mixdpo.losses.sft import sft
from mixdpo.losses.types import PairLogprobs, Running

__all__ = [
    "LOSSES",
    "FDivergence",
    "Loss",
    "LossSettings",
    "OdpoOffset",
    "PairLogprobs",
    "Running",
    "combined_loss",
    "discount_tail",
    "dpo",
    "needs",
    "reads_divergence",
    "sft",
    "statistics",
    "wpo_weight",
]
