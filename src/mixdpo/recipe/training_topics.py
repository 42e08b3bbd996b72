"""The settings of training by topic, for `--help`."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.losses.loss_settings import LossSettings
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.recipe.help_topics import HelpTopic, setting_entries
from mixdpo.recipe.recipe_file import yaml_text
from mixdpo.training.answers_settings import AnswersSettings
from mixdpo.training.training_settings import TrainingSettings

TOPICS: Final = {
    "loss": (
        "what the two routes train",
        (
            "loss_type", "loss_weights", "hard_loss_type", "sft_weight", "sft_target",
            *(f.name for f in fields(LossSettings)),
            "ld_alpha", "use_weighting", "reward_calibration", "router_aux_loss_coef",
        ),
    ),
    "optimisation": (
        "learning rate, steps, batches, number format",
        (
            "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
            "gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps", "phase_schedule", "optim",
            "weight_decay", "max_grad_norm", "bf16", "seed",
        ),
    ),
    "tokens": (
        "what of a pair is cut, and trained",
        (
            "max_length", "max_prompt_length", "assistant_only_loss", "loss_turns", "mask_empty_thinking",
            "dataset_num_proc", "remove_unused_columns",
        ),
    ),
    "memory": (
        "what fits on a device, and how fast it is",
        (
            "max_tokens_per_batch", "activation_checkpointing", "gradient_checkpointing", "engine", "length_window",
            "use_liger_kernel", "torch_compile",
        ),
    ),
    "reference": (
        "the frozen model that the policy is compared with",
        (
            "precompute_ref_log_probs", "precompute_ref_batch_size", "reference_cache", "sync_ref_model",
            "ref_model_mixup_alpha", "ref_model_sync_steps", "stage_reference",
        ),
    ),
    "evaluation": (
        "held-out pairs, answers while it trains, the best model",
        (
            "eval_strategy", "eval_steps", "per_device_eval_batch_size", "metric_for_best_model",
            "load_best_model_at_end", "early_stopping_patience", "early_stopping_threshold",
        ),
    ),
    "logging": (
        "the run's folder, metrics, trackers, checkpoints",
        (
            "output_dir", "logging_steps", "report_to", "run_name", "disable_tqdm", "logging_nan_inf_filter",
            "displacement_bound", "save_strategy", "save_steps", "save_total_limit",
        ),
    ),
    "hub": (
        "pushing the trained model",
        ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"),
    ),
}  # fmt: skip
"""What each is about, and the names of its settings in the section train."""

OF_TRANSFORMERS: Final = {
    "max_steps": ("steps of the run, instead of num_train_epochs; -1: as those say", -1),
    "per_device_train_batch_size": ("pairs of a step on each device", 8),
    "gradient_accumulation_steps": ("batches that make one step", 1),
    "optim": ("optimizer; adamw_8bit needs the extra gpu", "adamw_torch_fused"),
    "weight_decay": ("of the optimizer", 0.0),
    "max_grad_norm": ("a longer gradient is cut to this length", 1.0),
    "seed": ("of what is drawn in training", 42),
    "torch_compile": ("compile the model, anew for every shape of a batch; for padded rows alone", False),
    "eval_strategy": ("when to evaluate: no, steps or epoch", "no"),
    "eval_steps": ("steps between evaluations; null: logging_steps", None),
    "per_device_eval_batch_size": ("pairs of a batch that is measured", 8),
    "metric_for_best_model": ("such as eval_loss or eval_answers/win_rate", None),
    "load_best_model_at_end": ("end with the model of the best evaluation", False),
    "run_name": ("what trackers call the run", None),
    "save_strategy": ("when to write a checkpoint: no, steps, epoch or best", "steps"),
    "save_steps": ("steps between checkpoints", 500),
    "save_total_limit": ("checkpoints that are kept; null: all", None),
    "push_to_hub": ("push model/ with a card when training ends", False),
    "hub_model_id": ("repository; null: the name of output_dir", None),
    "hub_private_repo": ("whether a new repository is private; null: the account's default", None),
    "hub_revision": ("branch to push to", None),
}
"""What is set most of `transformers.TrainingArguments`, which takes seconds to import: help and default."""


def training_topics() -> list[HelpTopic]:
    """Return what can be set about training."""
    own = {key: (key, text) for key, text in setting_entries(TrainingSettings)}
    own |= {
        name: (name, f"{text} (default {yaml_text(default)})") for name, (text, default) in OF_TRANSFORMERS.items()
    }
    topics = []
    for name, (about, settings) in TOPICS.items():
        entries = [(f"--train.{key}", text) for key, text in (own[setting] for setting in settings)]
        topics.append(HelpTopic(name, about, (*entries, *_MORE.get(name, ()))))
    return topics


_MORE: Final = {
    "optimisation": (("--train.KEY", "every other field of transformers.TrainingArguments"),),
    "evaluation": (
        ("--eval_data.KEY", "pairs to measure on: the same keys as data"),
        ("The section answers, which may be left out:", ""),
        *setting_entries(
            AnswersSettings, "--answers.", {f.name for f in fields(AnswersSettings)} - {"judge", "rating"}
        ),
        *setting_entries(JudgeSettings, "--answers.judge."),
        *setting_entries(RatingSettings, "--answers.rating."),
    ),
}
