"""The recipe keys that each verb reads, for `--help`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from peft import LoraConfig

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.data.data_settings import DataSettings
from mixdpo.difficulty.metrics import METRICS
from mixdpo.models.model_settings import ModelSettings
from mixdpo.recipe.recipe_file import PlanSection, setting_lines
from mixdpo.training.config import MixDPOConfig

_SECTIONS: Final[Mapping[str, type[Any]]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "plan": PlanSection,
    "train": MixDPOConfig,
    "peft": LoraConfig,
}


def settings_named(key: str) -> list[str]:
    """Return the settings of all sections whose key is `key`, such as train.beta."""
    return [f"{name}.{key}" for name, cls in _SECTIONS.items() if key in {f.name for f in fields(cls)}]


def settings_help(verb: str) -> str:
    """Return the settings that a verb reads, with defaults and units, one per line."""
    lines = ["Settings (keys of a recipe, or options):", ""]
    if verb in ("audit", "clean"):
        lines += setting_lines(DataSettings, "data")
        lines += ["", *setting_lines(AuditSettings, "audit")] if verb == "audit" else []
        return "\n".join("  " + line if line.startswith("--") else line for line in lines)
    if verb != "plan":
        lines += [*setting_lines(ModelSettings, "model"), ""]
    lines += [*setting_lines(DataSettings, "data"), ""]
    if verb == "preferences":
        lines += ["--train.KEY  max_length, max_prompt_length, bf16 and beta, as in training"]
    elif verb == "score":
        for name, metric in METRICS.items():
            lines += setting_lines(metric.settings, f"score.{name}")
        lines += ["--train.KEY  max_length, max_prompt_length and bf16 hold for metrics that do not set their own"]
    else:
        lines += [*setting_lines(PlanSection, "plan"), ""]
    if verb in ("train", "reference"):
        lines += [
            *setting_lines(MixDPOConfig, "train", own_only=True),
            "--train.KEY  every other field of transformers.TrainingArguments",
            "--peft.KEY  LoRA adapters: every field of peft.LoraConfig, such as r, lora_alpha, target_modules",
            "--eval_data.KEY  pairs to measure on: the same fields as data",
        ]
    return "\n".join("  " + line if line.startswith("--") else line for line in lines)
