"""The chat model that settings name: on this machine, or behind an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mixdpo.generation.chat_model import ChatModel
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.models.model_settings import ModelSettings

Models = Mapping[str, ModelSettings | EndpointSettings]
"""Who answers, by the names that stand in the file of the answers."""


def find_model(settings: ModelSettings | EndpointSettings, finished: Path, batch_size: int | None = None) -> ChatModel:
    """Return the model that settings name.

    Args:
        settings: of a model on this machine, or of one behind an endpoint.
        finished: folder for finished calls of an endpoint.
        batch_size: answers at once, of a model on this machine; default: its own.
    """
    if isinstance(settings, EndpointSettings):
        return EndpointModel(settings, finished)
    from mixdpo.generation.local_model import LocalModel  # loads PyTorch

    return LocalModel(settings) if batch_size is None else LocalModel(settings, batch_size)
