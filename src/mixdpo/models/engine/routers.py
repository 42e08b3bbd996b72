"""Mixture-of-experts models: the loss that keeps their routers from sending most tokens to few experts."""

from __future__ import annotations

from typing import Any

from torch import nn

from mixdpo.models.engine.wrappers import causal_model


def has_routers(model: nn.Module) -> bool:
    """Whether a model can be asked for its routers' logits, and so for the loss that balances them."""
    return hasattr(causal_model(model).config.get_text_config(), "output_router_logits")


def router_coefficient(model: nn.Module) -> float:
    """Return the weight that a model's config gives to that loss, 0 where it has no routers or gives no weight."""
    config = causal_model(model).config.get_text_config()
    return float(getattr(config, "router_aux_loss_coef", 0.0)) if has_routers(model) else 0.0


def router_arguments(model: nn.Module, router_loss: bool) -> dict[str, Any]:
    """Return what a model's forward is to be told of that loss, whatever its config says: compute it, or leave it."""
    return {"output_router_logits": router_loss} if has_routers(model) else {}
