"""The recipe keys that each command reads, by topic, for `--help`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
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
from mixdpo.recipe.help_topics import HelpTopic, setting_entries
from mixdpo.recipe.recipe_file import OF_NO_TRAIN, PlanSection
from mixdpo.recipe.rounds_settings import RoundsSettings
from mixdpo.recipe.training_topics import training_topics
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
_OF_PLAN: Final = ("--plan.name", "--plan.metric", "--plan.threshold", "--plan.hard_route")
_OF_TRAINING: Final = (
    "--model.name_or_path", "--peft.r", "--plan.name", "--train.loss_type", "--train.beta", "--train.learning_rate",
    "--train.num_train_epochs", "--train.per_device_train_batch_size", "--train.max_length", "--train.eval_strategy",
)  # fmt: skip
_CHIEF: Final = {
    "train": _OF_TRAINING,
    "rounds": _OF_TRAINING,
    "reference": ("--model.name_or_path", "--plan.name", "--train.max_length", "--train.reference_cache"),
    "plan": (*_OF_PLAN, "--plan.order", "--data.columns", "--data.max_pairs"),
    "advise": ("--plan.metric", "--plan.signals", "--data.columns", "--data.max_pairs"),
    "score": ("--model.name_or_path", "--data.columns", "--data.max_pairs"),
    "preferences": ("--model.name_or_path", "--data.columns", "--data.max_pairs"),
    "tokens": ("--model.name_or_path", "--train.max_length", "--train.max_prompt_length", "--data.columns"),
}
_OF_DATA: Final = ("--data.split", "--data.columns", "--data.max_pairs", "--data.contradictions")
_SHORT: Final = {
    "--plan.name": "plan to start from: mixdpo, dpo, selective_dpo, ... (default mixdpo)",
    "--train.loss_type": "loss of the preference route: sigmoid (DPO's), ipo, simpo, ... (default sigmoid)",
    "--plan.threshold": "pairs that take hard_route: a margin (those under it), {hardest: 0.1}, auto, ... "
    "(default {hardest: 0.1})",
    "--plan.hard_route": "what they train: preference, sft, both, drop or tie (default sft)",
    "--data.columns": "names of columns, such as {prompt: question, chosen: good}; null: found (default null)",
    "--peft.r": "rank of LoRA adapters; without the section peft all weights are trained",
}
"""Where the whole help of a setting is a list."""
_PEFT: Final = HelpTopic(
    "peft",
    "LoRA adapters; without the section all weights are trained",
    (
        ("--peft.r", "rank (default 8)"),
        ("--peft.lora_alpha", "scale: the adapter counts lora_alpha / r (default 8)"),
        ("--peft.target_modules", "layers that get one, such as all-linear (default: by the architecture)"),
        ("--peft.KEY", "every other field of peft.LoraConfig"),
    ),
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


def chief_settings(command: str) -> list[tuple[str, str]]:
    """Return the few settings of a command that matter most, with a short help and the default."""
    known = dict(entry for topic in settings_topics(command) for entry in topic.entries)
    return [(key, _SHORT.get(key, known.get(key, ""))) for key in _CHIEF.get(command, _OF_DATA)]


def settings_topics(command: str) -> list[HelpTopic]:
    """Return the settings that a command reads, by topic."""
    data = _topic("data", "which pairs, and how they are read", DataSettings, "--data.")
    if command == "clean":
        return [data]
    if command == "audit":
        audit = _topic("audit", "what is looked for", AuditSettings, "--audit.")
        return [data, audit, _tokens("max_prompt_length", *_MASKS), _model(_OF_TOKENIZER)]
    if command == "rounds":
        return _of_rounds()
    if command == "advise":
        return [data, _plan(_OF_ADVICE)]
    if command == "plan":
        return [data, _plan()]
    if command == "tokens":
        return [_model(_OF_TOKENIZER), data, _tokens(*_LIMITS, *_MASKS)]
    if command == "preferences":
        text = f"{', '.join((*_LIMITS, *_MASKS, 'bf16'))} and beta, as in training"
        return [_model(), data, HelpTopic("tokens", "as in training", (("--train.KEY", text),))]
    if command == "score":
        return [_model(), data, _metrics()]
    return [_model(), _PEFT, data, _plan(), *training_topics()]  # train and reference


def _topic(
    name: str, about: str, cls: type[Any], prefix: str, only: Collection[str] | None = None, *more: tuple[str, str]
) -> HelpTopic:
    return HelpTopic(name, about, (*setting_entries(cls, prefix, only), *more))


def _model(only: Collection[str] | None = None) -> HelpTopic:
    return _topic("model", "the model and its chat template", ModelSettings, "--model.", only)


def _plan(only: Collection[str] | None = None) -> HelpTopic:
    return _topic("plan", "order and routes of the pairs", PlanSection, "--plan.", only)


def _tokens(*names: str) -> HelpTopic:
    return _topic("tokens", "what of a pair is cut, and trained", TrainingSettings, "--train.", names)


def _metrics() -> HelpTopic:
    entries = [e for name, metric in METRICS.items() for e in setting_entries(metric.settings, f"--score.{name}.")]
    text = f"{', '.join((*_LIMITS, *_MASKS))} and bf16 hold for metrics that do not set their own"
    return HelpTopic("metrics", "settings of metrics", (*entries, ("--train.KEY", text)))


def _of_rounds() -> list[HelpTopic]:
    within = {"generation": GenerationSettings, "judge": JudgeSettings, "rating": RatingSettings,
              "selection": SelectionSettings}  # fmt: skip
    entries = setting_entries(RoundsSettings, "--pairs.", {f.name for f in fields(RoundsSettings)}.difference(within))
    for name, cls in within.items():
        entries += setting_entries(cls, f"--pairs.{name}.")
    entries.append(("--pairs.judge", "several judges: a list of these settings in the recipe"))
    plan = _plan(tuple(f.name for f in fields(PlanSection) if f.name != "path"))
    metrics = HelpTopic("metrics", "settings of metrics", (("--score.METRIC.KEY", "see mixdpo score --help metrics"),))
    model = _model(tuple(f.name for f in fields(ModelSettings) if f.name != "adapter"))
    pairs = HelpTopic("pairs", "how pairs of a round are made", tuple(entries))
    return [model, _PEFT, pairs, plan, metrics, *training_topics()]
