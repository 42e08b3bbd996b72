"""`MixDPOConfig`: the settings of a training run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import numpy as np
import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges, unknown_name
from mixdpo.losses import (
    LOSSES,
    TIE_NU,
    FDivergence,
    LossSettings,
    OdpoOffset,
    needs,
    reads_divergence,
    reads_setting,
    smooths_per_pair,
)
from mixdpo.models.engine import hardware_has_bf16
from mixdpo.training.settings_of_others import settings_of, takes_settings_of_others
from mixdpo.training.training_settings import Engine, PhaseSchedule, SftTarget, StageReference, TrainingSettings

logger = logging.getLogger(__name__)

# Settings of transformers.TrainingArguments that would be accepted and then have no effect, or a wrong one.
UNSUPPORTED = {
    "train_sampling_strategy": ("random", "the plan decides the order"),
    "dataloader_drop_last": (False, "every pair of the plan is trained"),
    "remove_unused_columns": (False, "the columns of a pair are not the model's arguments"),
    "auto_find_batch_size": (False, "steps are cut by per_device_train_batch_size; set max_tokens_per_batch"),
    "enable_jit_checkpoint": (False, "every run saves a checkpoint when SIGTERM or SIGUSR1 tells it to end"),
    "label_smoothing_factor": (0.0, "use label_smoothing, the share of flipped labels"),
    "neftune_noise_alpha": (None, "its noise is scaled to the length of a row, and packed rows hold several answers"),
    "average_tokens_across_devices": (True, "a step's loss is the mean over the pairs of all processes"),
}

# The same of transformers.TrainingArguments.accelerator_config, which says how processes load data.
_UNSUPPORTED_LOADING = {
    "split_batches": "a step has per_device_train_batch_size pairs of every process",
    "dispatch_batches": "every process makes its own batches of the plan",
}

# The lowest value of numbers of transformers.TrainingArguments that would otherwise fail late, or train nothing.
_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0,
    "max_grad_norm": 0,
}


@takes_settings_of_others
@dataclass
class MixDPOConfig(TrainingSettings, TrainingArguments):  # type: ignore[misc]  # the defaults differ, and bf16's type
    """Settings of `MixDPOTrainer`: `TrainingSettings` with those of losses, and `transformers.TrainingArguments`.

    Names follow TRL's `DPOConfig` where TRL has the thing. Defaults that differ from `TrainingArguments`:
    one epoch, learning rate 1e-6, cosine schedule with 10 % warm-up, logging every 10 steps, no tracker,
    and bfloat16 wherever the hardware computes it.

    Settings of other versions of TRL and transformers are taken as keywords where they can be had, and refused with
    what to do instead where not (`settings_of_others.py`).
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]  # noqa: RUF012  # as there

    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked host memory for batches"}
    )
    model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "keywords of from_pretrained for a model that is given by name"}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "run Python code that comes with a model that is given by name"}
    )
    pad_token: str | None = field(
        default=None, metadata={"help": "padding token of the tokenizer that is saved with the model"}
    )

    def __post_init__(self) -> None:
        self._plan: dict[str, Any] = {}
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers wants to be told before it accepts bfloat16 there
        if self.use_cpu:  # accelerate imports DeepSpeed wherever it is installed, which warns if it finds no GPU
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and hardware_has_bf16()
        asked = self.activation_checkpointing
        self._checkpointing = self.gradient_checkpointing if asked is None else asked
        # Transformers reads one name or the other, and asks only whether it is true.
        self.activation_checkpointing = self.gradient_checkpointing = self._checkpointing is True
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(f"training settings: {error}") from error
        self._check()
        self._warn_of_unread()

    @classmethod
    def of(cls, args: TrainingArguments) -> MixDPOConfig:
        """Return the settings of `TrainingArguments` or of TRL's `DPOConfig`; its own may have changed since made.

        Raises:
            InputError: one of them is not supported, or they are of another kind.
        """
        if isinstance(args, cls):
            args._check()
            return args
        _check_is_of_dpo(args)
        values = settings_of(args, [f.name for f in fields(cls)])
        for name in ("remove_unused_columns", "logging_nan_inf_filter"):  # on by default there
            values.pop(name, None)
        config = cls(**values)
        schedule = SchedulerType(config.lr_scheduler_type).value
        logger.warning(
            f"args is a {type(args).__name__}, and its settings are taken, defaults too: learning_rate "
            f"{config.learning_rate:g}, {schedule} schedule, {config.num_train_epochs:g} epochs"
        )
        return config

    def _check(self) -> None:
        for name, (only, reason) in UNSUPPORTED.items():
            if getattr(self, name) != only:
                raise InputError(f"{name} is {getattr(self, name)!r}, but only {only!r} works: {reason}")
        for name, reason in _UNSUPPORTED_LOADING.items():
            if getattr(self.accelerator_config, name):
                raise InputError(f"accelerator_config: {name} is true, but does not work: {reason}")
        for name in (*self.loss_names, *self.hard_loss_names):
            if name not in LOSSES:
                raise unknown_name("loss", name, LOSSES)
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_names):
            raise InputError(
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_names)} losses in loss_type"
            )
        if self.loss_weights is not None and not (
            all(0 <= weight < np.inf for weight in self.loss_weights) and any(self.loss_weights)
        ):
            raise InputError(
                f"loss_weights is {self.loss_weights}; weights are finite numbers of 0 or more, and not all are 0"
            )
        if ["chosen_floor"] in (self.loss_names, self.hard_loss_names):
            raise InputError(
                "chosen_floor alone trains nothing: it is 0 until another loss lowers a chosen answer",
                hint="set loss_type to a list of both, such as [sigmoid, chosen_floor], and loss_weights to [1, 10]",
            )
        check_ranges(self)
        self._check_finite()
        self._check_smoothing()
        self._check_calibration()
        self.token_settings()
        self._check_tie_losses()
        if self.ld_alpha is not None and needs(self.all_losses, "mismatched"):
            raise InputError(
                "ld_alpha discounts the tails of a pair's answers, and kto reads answers to other prompts too",
                hint="leave ld_alpha out",
            )
        if self.f_divergence_type != "reverse_kl" and not any(map(reads_divergence, self.all_losses)):
            raise InputError(
                f"{' + '.join(self.all_losses)} has no divergence but reverse_kl", hint="leave f_divergence_type out"
            )
        if self.sync_ref_model and (self.precompute_ref_log_probs or not self.reads_reference):
            raise InputError(
                "sync_ref_model moves a live reference, and this run has none",
                hint="set precompute_ref_log_probs to false and take a loss that reads the reference",
            )
        self._check_early_stopping()
        batch = self.per_device_train_batch_size
        if self.compares_pairs and (batch < 2 or self.max_tokens_per_batch is not None):
            raise InputError(
                f"{' + '.join(self.all_losses)} compares the pairs of a micro-batch with each other",
                hint="set per_device_train_batch_size to 2 or more, and no max_tokens_per_batch",
            )
        if self.max_tokens_per_batch not in (None, "auto") and not isinstance(self.max_tokens_per_batch, int):
            raise InputError(f"max_tokens_per_batch is {self.max_tokens_per_batch!r}; it is a number, auto or null")
        if self._checkpointing not in (None, True, False, "auto"):
            raise InputError(f"activation_checkpointing is {self._checkpointing!r}; it is true, false, auto or null")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            unclipped = name == "max_grad_norm" and value == np.inf  # the norm is logged all the same
            if value is not None and not least <= value < np.inf and not unclipped:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if not self.num_train_epochs > 0 and self.max_steps <= 0:
            raise InputError(f"num_train_epochs is {self.num_train_epochs}; it must be above 0, or max_steps be given")
        for name, choices in (
            ("sft_target", get_args(SftTarget)),
            ("phase_schedule", get_args(PhaseSchedule)),
            ("stage_reference", get_args(StageReference)),
            ("engine", get_args(Engine)),
            ("f_divergence_type", get_args(FDivergence)),
            ("odpo_offset", get_args(OdpoOffset)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(choices)}")
        self._check_hub()

    def _check_hub(self) -> None:
        if not self.push_to_hub or self.hub_strategy == HubStrategy.END:
            return
        if self.hub_strategy != HubStrategy.EVERY_SAVE:
            raise InputError(
                f"hub_strategy is {HubStrategy(self.hub_strategy).value}, and only the trained model is pushed",
                hint="leave it out; checkpoints stay in the run's folder",
            )
        self.hub_strategy = HubStrategy.END  # transformers' default would push the run's folder at every save

    def _check_finite(self) -> None:
        for f in fields(LossSettings):
            value = getattr(self, f.name)
            if isinstance(value, float) and not np.isfinite(value):
                raise InputError(f"{f.name} is {value}; it must be finite")

    def _warn_of_unread(self) -> None:
        changed = [f.name for f in fields(LossSettings) if getattr(self, f.name) != f.default]
        unread = [name for name in changed if not any(reads_setting(loss, name) for loss in self.all_losses)]
        if self.smooths_per_pair:  # by losses that have both sides
            unread = [name for name in unread if name != "label_smoothing"]
        if unread:
            logger.warning(f"{', '.join(unread)} has no effect: {' + '.join(self.all_losses)} does not read it")

    def _check_smoothing(self) -> None:
        if isinstance(self.label_smoothing, str) and not self.smooths_per_pair:
            raise InputError(f"label_smoothing is {self.label_smoothing!r}; it is a number or per_pair")
        without = [name for name in self.all_losses if not smooths_per_pair(name)]
        if self.smooths_per_pair and without:
            raise InputError(
                f"label_smoothing is per_pair, and {without[0]} has no loss for a label that may be wrong",
                hint=f"take {', '.join(filter(smooths_per_pair, LOSSES))}",
            )

    def _check_calibration(self) -> None:
        if not self.reward_calibration:
            return
        for name in self.loss_names:
            if not LOSSES[name].contrasts:
                raise InputError(
                    f"reward_calibration is on, and {name} does not raise one answer and lower the other",
                    hint="leave one of both out",
                )
        if self.ld_alpha is not None:
            raise InputError(
                "reward_calibration measures whole answers, and ld_alpha cuts them", hint="leave one of both out"
            )
        if self.max_tokens_per_batch == "auto":
            raise InputError(
                "reward_calibration takes memory that max_tokens_per_batch auto was not tried with",
                hint="set max_tokens_per_batch to a number",
            )

    @property
    def smooths_per_pair(self) -> bool:
        """Whether the losses read the plan's probability of each pair's label."""
        return self.label_smoothing == "per_pair"

    def _check_early_stopping(self) -> None:
        patience, threshold = self.early_stopping_patience, self.early_stopping_threshold
        if patience is None and threshold:
            raise InputError(
                "early_stopping_threshold is set, and nothing stops early", hint="set early_stopping_patience, too"
            )
        if patience is not None and (self.metric_for_best_model is None or self.eval_strategy == "no"):
            raise InputError(
                "early_stopping_patience is set, and no metric is measured that could improve",
                hint="set metric_for_best_model to loss or answers/win_rate, and eval_strategy to steps or epoch",
            )

    @property
    def loss_names(self) -> list[str]:
        """`loss_type` as a list."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)

    @property
    def hard_loss_names(self) -> list[str]:
        """`hard_loss_type` as a list, empty for plain SFT."""
        names = [self.hard_loss_type] if isinstance(self.hard_loss_type, str) else list(self.hard_loss_type)
        return [] if names == ["sft"] else names

    @property
    def all_losses(self) -> list[str]:
        """The losses of both routes."""
        return [*self.loss_names, *self.hard_loss_names]

    @property
    def reads_reference(self) -> bool:
        """Whether a loss of either route reads the reference."""
        return needs(self.all_losses, "reference")

    @property
    def reads_mismatched(self) -> bool:
        """Whether a loss of either route reads answers to other prompts."""
        return needs(self.all_losses, "mismatched")

    @property
    def chooses_checkpointing(self) -> bool:
        """Whether activation checkpointing is to be switched on where the device's memory needs it."""
        return self._checkpointing == "auto" or (self._checkpointing is None and self.device.type == "cuda")

    @property
    def compares_pairs(self) -> bool:
        """Whether a loss of either route depends on which pairs are computed together."""
        return needs(self.all_losses, "whole_batch")

    def _check_tie_losses(self) -> None:
        names = [name for name in TIE_NU if name in self.all_losses]
        if len(names) > 1:
            raise InputError(f"{' and '.join(names)} read one tie_nu in two ways", hint="take one of them")
        if names == ["rao_kupper"] and self.tie_nu is not None and not self.tie_nu > 1:
            raise InputError(f"tie_nu is {self.tie_nu}; of rao_kupper it must be above 1")
        if self.tie_nu is not None and not needs(self.all_losses, "ties"):
            raise InputError(
                f"tie_nu is set, and {' + '.join(self.all_losses)} knows no ties",
                hint=f"leave it out, or set loss_type to {' or '.join(TIE_NU)}",
            )

    def pair_needs(self) -> dict[str, Any]:
        """Return what `PlannedPairs` has to know of the losses."""
        return {
            "hard_loss": bool(self.hard_loss_names),
            "easy_reference": needs(self.loss_names, "reference"),
            "hard_reference": needs(self.hard_loss_names, "reference"),
        }

    def tell_plan(self, settings: Mapping[str, Any]) -> None:
        """Have trackers told the settings of the plan, too: runs differ by them first of all."""
        self._plan = {"plan": dict(settings)}

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON-ready values without secrets, as trackers are told them."""
        shown = {**super().to_dict(), "model_init_kwargs": self._shown_init_kwargs(), **self._plan}
        return {name: value for name, value in shown.items() if not _is_secret(name)}

    def to_record(self) -> dict[str, Any]:
        """Return all settings for `run.json`, which has the plan by itself."""
        asked = {"activation_checkpointing": self._checkpointing, "gradient_checkpointing": self._checkpointing}
        return {name: value for name, value in {**self.to_dict(), **asked}.items() if name not in self._plan}

    def _shown_init_kwargs(self) -> dict[str, Any] | None:
        """Return `model_init_kwargs` without a token, with everything else as JSON or text."""
        if self.model_init_kwargs is None:
            return None
        plain = (str, int, float, bool, type(None))
        given = {name: value for name, value in self.model_init_kwargs.items() if not _is_secret(name)}
        return {name: value if isinstance(value, plain) else str(value) for name, value in given.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickled copy holds, such as `training_args.bin` of a model's folder: all but secrets."""
        kept = {**self.__dict__, "model_init_kwargs": self._shown_init_kwargs()}
        return {name: None if _is_secret(name) else value for name, value in kept.items()}


def _is_secret(name: str) -> bool:
    return (name.endswith("_token") and name != "pad_token") or name == "token"


def _check_is_of_dpo(args: Any) -> None:
    """Raise `InputError` for what is no `TrainingArguments`, and for those of TRL's trainers of something else.

    They say by their class what is trained: read as settings of DPO, an `ORPOConfig` would train DPO without a word.
    """
    if not isinstance(args, TrainingArguments):
        raise InputError(f"args is a {type(args).__name__}", hint="give MixDPOConfig(...)")
    kinds = type(args).__mro__
    if any(kind.__module__.startswith("trl.") for kind in kinds) and "DPOConfig" not in [k.__name__ for k in kinds]:
        loss = type(args).__name__.removesuffix("Config").lower()
        raise InputError(
            f"args is a {type(args).__name__}, of a trainer that does not train DPO",
            hint=f"give MixDPOConfig(loss_type={loss if loss in LOSSES else 'sigmoid'!r}, ...)",
        )
