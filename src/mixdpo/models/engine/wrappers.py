"""What a model is wrapped in."""

from __future__ import annotations

from typing import Any

from torch import nn


def without_wrappers(model: nn.Module) -> Any:
    """Return the model inside DistributedDataParallel or DeepSpeed, with its adapters if it has any."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


def causal_model(model: nn.Module) -> Any:
    """Return transformers' model class itself, without wrappers and without adapters around it."""
    inner = without_wrappers(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
