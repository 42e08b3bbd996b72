"""The recipe keys that each command reads, for `--help`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, Final

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.data.data_settings import DataSettings
from mixdpo.difficulty.metrics import METRICS
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.models.model_settings import ModelSettings
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.pairs.selection_settings import SelectionSettings
from mixdpo.plan.plan_settings import AdviceSettings
from mixdpo.recipe.recipe_file import OF_MODEL, OF_NO_TRAIN, PlanSection, yaml_text
from mixdpo.recipe.rounds_settings import RoundsSettings
from mixdpo.training.answers_settings import AnswersSettings
from mixdpo.training.training_settings import TrainingSettings

_LIMITS: Final = ("max_length", "max_prompt_length")
_MASKS: Final = ("assistant_only_loss", "loss_turns", "mask_empty_thinking")
"""What tokenisation reads of the section train."""
_OF_ADVICE: Final = ("metric", "label_probability", "signals", *(f.name for f in fields(AdviceSettings)[1:]))
"""What advice reads of the section plan."""
_OF_TOKENIZER: Final = (
    *("name_or_path", "revision", "tokenizer", "chat_template", "chat_template_kwargs", "template_date"),
    "trust_remote_code",
)


def settings_named(key: str) -> list[str]:
    """Return the settings of all sections whose key is `key`, such as train.beta."""
    from peft import LoraConfig

    from mixdpo.training.config import MixDPOConfig
    from mixdpo.training.settings_of_others import is_of_others

    sections: Mapping[str, type[Any]] = {
        "model": ModelSettings, "data": DataSettings, "plan": PlanSection, "train": MixDPOConfig, "peft": LoraConfig,
        "answers": AnswersSettings,
    }  # fmt: skip
    named = [name for name, cls in sections.items() if key in {f.name for f in fields(cls)}]
    found = [f"{name}.{key}" for name in named if name != "train" or key not in OF_NO_TRAIN]
    return found or ([f"train.{key}"] if is_of_others(key) else [])


def settings_help(command: str) -> str:
    """Return the settings that a command reads, with defaults and units, one per line."""
    lines = ["Settings (keys of a recipe, or options):", ""]
    if command in ("audit", "clean"):
        lines += setting_lines(DataSettings, "data")
        if command == "audit":
            lines += ["", *setting_lines(AuditSettings, "audit")]
            lines += ["", *setting_lines(ModelSettings, "model", _OF_TOKENIZER)]
            lines += ["", *setting_lines(TrainingSettings, "train", ("max_prompt_length", *_MASKS))]
        return _indented(lines)
    if command == "rounds":
        return _indented([*lines, *_of_rounds()])
    if command not in ("advise", "plan"):
        lines += [*setting_lines(ModelSettings, "model", _OF_TOKENIZER if command == "tokens" else None), ""]
    lines += [*setting_lines(DataSettings, "data"), ""]
    if command == "preferences":
        lines += [f"--train.KEY  {', '.join((*_LIMITS, *_MASKS, 'bf16'))} and beta, as in training"]
    elif command == "tokens":
        lines += setting_lines(TrainingSettings, "train", (*_LIMITS, *_MASKS))
    elif command == "score":
        for name, metric in METRICS.items():
            lines += setting_lines(metric.settings, f"score.{name}")
        lines += [f"--train.KEY  {', '.join((*_LIMITS, *_MASKS))} and bf16 hold for metrics that do not set their own"]
    else:
        lines += [*setting_lines(PlanSection, "plan", _OF_ADVICE if command == "advise" else None), ""]
    if command in ("train", "reference"):
        lines += _of_training()
    return _indented(lines)


def _of_training() -> list[str]:
    return [
        *setting_lines(TrainingSettings, "train", {f.name for f in fields(TrainingSettings)}.difference(OF_MODEL)),
        "--train.KEY  every other field of transformers.TrainingArguments",
        "--peft.KEY  LoRA adapters: every field of peft.LoraConfig, such as r, lora_alpha, target_modules",
        "--eval_data.KEY  pairs to measure on: the same fields as data",
        "",
        "The section answers may be left out:",
        *setting_lines(AnswersSettings, "answers", {f.name for f in fields(AnswersSettings)} - {"judge", "rating"}),
        *setting_lines(JudgeSettings, "answers.judge"),
        *setting_lines(RatingSettings, "answers.rating"),
    ]


def _of_rounds() -> list[str]:
    within = {"generation": GenerationSettings, "judge": JudgeSettings, "rating": RatingSettings,
              "selection": SelectionSettings}  # fmt: skip
    own = {f.name for f in fields(RoundsSettings)}.difference(within)
    lines = [*setting_lines(ModelSettings, "model", {f.name for f in fields(ModelSettings)} - {"adapter"}), ""]
    lines += [*setting_lines(RoundsSettings, "pairs", own)]
    for name, cls in within.items():
        lines += setting_lines(cls, f"pairs.{name}")
    return [
        *lines,
        "--pairs.judge  several judges: a list of these settings in the recipe",
        "",
        *setting_lines(PlanSection, "plan", {f.name for f in fields(PlanSection)} - {"path"}),
        "--score.METRIC.KEY  settings of metrics: see mixdpo score --help",
        "",
        *_of_training(),
    ]


def setting_lines(cls: type[Any], section: str, only: Collection[str] | None = None) -> list[str]:
    """Return one line per field of a settings dataclass (of `only` these): key, help and default."""
    lines = []
    for f in fields(cls):
        if not f.init or (only is not None and f.name not in only):
            continue
        if f.default is MISSING and f.default_factory is MISSING:
            default = "required"
        else:
            default = f"default {yaml_text(f.default if f.default_factory is MISSING else f.default_factory())}"
        lines.append(f"--{section}.{f.name}  {f.metadata.get('help', '')} ({default})")
    return lines


def _indented(lines: list[str]) -> str:
    return "\n".join("  " + line if line.startswith("--") else line for line in lines)
