"""From a file of another trainer to the text of a recipe that `mixdpo train --config` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from mixdpo.common.errors import InputError
from mixdpo.common.settings import read_yaml
from mixdpo.recipe.convert.conversion import SECTIONS, Conversion
from mixdpo.recipe.convert.from_axolotl import convert_axolotl
from mixdpo.recipe.convert.from_llama_factory import convert_llama_factory
from mixdpo.recipe.convert.from_trl import convert_trl
from mixdpo.recipe.recipe_file import load_recipe

TRAINERS: Final[Mapping[str, tuple[str, Callable[[Conversion], None]]]] = {
    "trl": ("TRL", convert_trl),
    "axolotl": ("Axolotl", convert_axolotl),
    "llama-factory": ("LLaMA-Factory", convert_llama_factory),
}
"""By what --from says: the trainer's name, and what fills in a recipe."""


def convert(file: Path, source: str) -> Conversion:
    """Read a configuration, and make a recipe of it.

    Args:
        file: YAML.
        source: a key of `TRAINERS`.

    Raises:
        InputError: it cannot be read, is of another trainer, is not of training on preference pairs, or has a value
            that a recipe cannot have.
    """
    if file.suffix == ".py":
        raise InputError(
            "a Python script is not converted", file=file, hint="change its import instead, see docs/from-trl.md"
        )
    content = read_yaml(file)
    name, fill_in = TRAINERS[source]
    _check_is_of(content, source, file)
    conversion = Conversion({key: value for key, value in content.items() if value is not None}, name)
    try:
        fill_in(conversion)
        conversion.recipe["plan"] = {"name": "dpo"}
        load_recipe(None, recipe_of(conversion))
    except InputError as error:
        raise error.about(file) from error
    return conversion


def _check_is_of(content: Mapping[str, Any], source: str, file: Path) -> None:
    named = {key for key, value in content.items() if value is not None}
    if "base_model" in named:
        likely = "axolotl"
    elif {"finetuning_type", "stage", "cutoff_len"} & named:
        likely = "llama-factory"
    else:
        likely = "trl"
    if not {"base_model", "model_name_or_path"} & named:
        raise InputError(
            "no model is named",
            file=file,
            hint="TRL and LLaMA-Factory have model_name_or_path, Axolotl has base_model",
        )
    if likely != source:
        raise InputError(
            f"it has keys of {TRAINERS[likely][0]}, not of {TRAINERS[source][0]}",
            file=file,
            hint=f"say --from {likely}",
        )


def recipe_of(conversion: Conversion) -> dict[str, Any]:
    """Return the recipe without its empty sections."""
    return {name: conversion.recipe[name] for name in SECTIONS if conversion.recipe[name]}


def recipe_text(conversion: Conversion, file: Path) -> str:
    """Return the recipe as a file, with what has no counterpart as comments."""
    lines = [f"# Made of {file.name}, a configuration of {conversion.trainer}, by mixdpo convert."]
    for title, notes in (("guessed", conversion.guessed), ("left out", conversion.left_out)):
        lines += ["# " + " ".join(f"{title}: {key}: {reason}".split()) for key, reason in notes.items()]
    parts = [
        yaml.safe_dump({name: section}, sort_keys=False, allow_unicode=True, width=110)
        for name, section in recipe_of(conversion).items()
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(parts)


def report(conversion: Conversion) -> list[str]:
    """Return, in lines, what became of the keys that are not simply settings."""
    lines = [f"{len(conversion.taken)} keys of {conversion.trainer} are settings of the recipe"]
    for title, notes in (
        ("guessed, please check", conversion.guessed),
        ("left out, for there is no counterpart", conversion.left_out),
        ("not needed", conversion.needless),
    ):
        if notes:
            lines.append(f"{title}:")
            lines += ["  " + " ".join(f"{key}: {reason}".split()) for key, reason in notes.items()]
    if conversion.defaults:
        lines.append(f"written out, since {conversion.trainer} has other defaults than mixdpo:")
        lines += [f"  {key}: {value}" for key, value in conversion.defaults.items()]
    lines.append(
        f"plan: dpo, which trains all pairs alike, as {conversion.trainer} does; --plan mixdpo sends hard pairs to "
        "SFT, and needs scores"
    )
    return lines
