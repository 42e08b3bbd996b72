"""Losses: pure functions of per-pair log-probabilities. Know nothing of models, files or batches.

Names are imported when first used, so that the settings of losses can be read without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixdpo.losses.loss_settings import FDivergence as FDivergence
    from mixdpo.losses.loss_settings import LossSettings as LossSettings
    from mixdpo.losses.loss_settings import OdpoOffset as OdpoOffset
    from mixdpo.losses.preference import dpo as dpo
    from mixdpo.losses.registry import LOSSES as LOSSES
    from mixdpo.losses.registry import Loss as Loss
    from mixdpo.losses.registry import combined_loss as combined_loss
    from mixdpo.losses.registry import needs as needs
    from mixdpo.losses.registry import reads_divergence as reads_divergence
    from mixdpo.losses.registry import reads_setting as reads_setting
    from mixdpo.losses.registry import smooths_per_pair as smooths_per_pair
    from mixdpo.losses.registry import statistics as statistics
    from mixdpo.losses.scores import discount_tail as discount_tail
    from mixdpo.losses.scores import wpo_weight as wpo_weight
    from mixdpo.losses.ties import TIE_NU as TIE_NU
    from mixdpo.losses.types import PairLogprobs as PairLogprobs
    from mixdpo.losses.types import Running as Running

_HOME = {
    "LOSSES": "registry",
    "FDivergence": "loss_settings",
    "Loss": "registry",
    "LossSettings": "loss_settings",
    "OdpoOffset": "loss_settings",
    "PairLogprobs": "types",
    "Running": "types",
    "TIE_NU": "ties",
    "combined_loss": "registry",
    "discount_tail": "scores",
    "dpo": "preference",
    "needs": "registry",
    "reads_divergence": "registry",
    "reads_setting": "registry",
    "smooths_per_pair": "registry",
    "statistics": "registry",
    "wpo_weight": "scores",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
