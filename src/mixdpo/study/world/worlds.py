"""The worlds by name, with the bases that the package holds of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from mixdpo.study.world.base import make_model
from mixdpo.study.world.language import Language
from mixdpo.study.world.letters import Letters
from mixdpo.study.world.lists import Lists
from mixdpo.study.world.words import Words

WORLDS: Final[Mapping[str, Callable[[], Language]]] = {"words": Words, "letters": Letters, "lists": Lists}
BASES: Final = 3
"""Bases of every world, numbered from 0."""


def base_file(name: str, number: int) -> Path:
    """Return where the package keeps the weights of a world's base."""
    return Path(str(files("mixdpo.study.world"))) / "bases" / f"{name}-{number}.safetensors"


def load_base(name: str, number: int) -> LlamaForCausalLM:
    """Return a world's base, in float32 and without gradients asked for yet."""
    model = make_model(WORLDS[name](), seed=0)
    model.load_state_dict(load_file(base_file(name, number)))
    return model.eval()
