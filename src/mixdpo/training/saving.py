"""What is saved of a model whose weights are spread over processes: whole weights, each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from mixdpo.models.engine import causal_model, without_wrappers

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")


def saves_shards(accelerator: Accelerator) -> bool:
    """Whether every process writes its own part of a checkpoint, under FSDP."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    return plugin is not None and "FULL" not in plugin.state_dict_type.name


def without_tied_copies(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights without those that it ties to others, which gathering from processes made copies of."""
    inner: Any = without_wrappers(model)
    tied: Mapping[str, str] = getattr(inner, "all_tied_weights_keys", None) or {}
    return {name: value for name, value in state.items() if tied.get(name) not in state}


def holds_weights(folder: Path) -> bool:
    """Whether transformers or peft would find weights in a folder."""
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def save_descriptions(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write what stands beside weights: settings of the model, of generation and of adapters, and the tokenizer."""
    inner = causal_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    inner.config.save_pretrained(folder)
    if inner.generation_config is not None:
        inner.generation_config.save_pretrained(folder)
    for config in getattr(without_wrappers(model), "peft_config", {}).values():
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
