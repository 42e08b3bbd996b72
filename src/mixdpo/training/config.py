"""`MixDPOConfig`: the settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from transformers import TrainingArguments

from mixdpo.engine import hardware_has_bf16
from mixdpo.errors import InputError
from mixdpo.losses import LOSSES, LossSettings
from mixdpo.training.step import StepSettings

SftTarget = Literal["chosen", "rejected", "both", "random"]
PhaseSchedule = Literal["shared", "rewarmed"]
Engine = Literal["auto", "packed", "padded"]

# Settings of transformers.TrainingArguments that would be accepted and then have no effect, or a wrong one.
_UNSUPPORTED = {
    "train_sampling_strategy": ("random", "the plan decides the order"),
    "dataloader_drop_last": (False, "every pair of the plan is trained"),
    "remove_unused_columns": (False, "the columns of a pair are not the model's arguments"),
    "label_smoothing_factor": (0.0, "use label_smoothing, the share of flipped labels"),
    "average_tokens_across_devices": (True, "a step's loss is the mean over the pairs of all processes"),
    "group_by_length": (False, "the plan decides the order"),
}


@dataclass
class MixDPOConfig(TrainingArguments):
    """Settings of `MixDPOTrainer`: those below and all of `transformers.TrainingArguments`.

    Names follow TRL's `DPOConfig` where TRL has the thing. Defaults that differ from `TrainingArguments`:
    one epoch, learning rate 1e-6, cosine schedule with 10 % warm-up, logging every 10 steps, no tracker,
    and bfloat16 wherever the hardware computes it.
    """

    _VALID_DICT_FIELDS = TrainingArguments._VALID_DICT_FIELDS

    output_dir: str | None = field(default="runs/mixdpo", metadata={"help": "folder of the run"})
    learning_rate: float = field(default=1e-6, metadata={"help": "peak learning rate"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "epochs over the plan"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "shape of the learning-rate schedule"})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "steps of linear warm-up; below 1 a fraction of all steps"}
    )
    logging_steps: float = field(default=10, metadata={"help": "optimizer steps between two lines of metrics"})
    disable_tqdm: bool | None = field(default=False, metadata={"help": "show no progress"})
    # Asking whether each micro-batch's loss is finite would wait for the device every time.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "leave NaN losses out of the log"})
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "trackers of transformers, such as wandb or tensorboard"}
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "page-locked host memory for batches"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false"})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 autocast; null: where the hardware has it and fp16 is off"}
    )

    loss_type: str | list[str] = field(
        default="sigmoid",
        metadata={"help": f"loss of the preference route, or a list of losses to add up: {', '.join(LOSSES)}"},
    )
    loss_weights: list[float] | None = field(
        default=None, metadata={"help": "one weight per entry of loss_type; null: all 1"}
    )
    beta: float = field(default=0.1, metadata={"help": "strength of the pull to the reference, per nat"})
    label_smoothing: float = field(
        default=0.0, metadata={"help": "assumed share of flipped labels, in [0, 0.5): conservative DPO"}
    )
    sft_weight: float = field(default=1.0, metadata={"help": "factor of the SFT loss on routes sft and both"})
    sft_target: SftTarget = field(
        default="chosen",
        metadata={"help": "answer that SFT imitates: chosen, rejected, both (half each), or random per pair"},
    )
    phase_schedule: PhaseSchedule = field(
        default="shared",
        metadata={
            "help": "shared: one learning-rate schedule over both routes, as published; rewarmed: a schedule of "
            "its own, with warm-up, for each stretch of steps of one route"
        },
    )
    max_length: int | None = field(
        default=1024, metadata={"help": "tokens of prompt + completion, cut on the right; null: no limit"}
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "tokens of the prompt, cut on the left; null: no limit"}
    )
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "processes that tokenise; null: one per 2,000 pairs, at most one per core"}
    )
    engine: Engine = field(
        default="auto",
        metadata={
            "help": "packed: a micro-batch is one row without padding, each prompt once; padded: one padded row per "
            "completion; auto: packed where the model's attention allows it"
        },
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "split a device's batch into micro-batches of at most this many tokens, each prompt counted once; "
            "null: one micro-batch"
        },
    )
    length_window: int | None = field(
        default=None,
        metadata={
            "help": "pairs of the plan's order within which the longest come first; null: one optimizer step, so "
            "that steps keep their pairs; 1: the plan's order within steps too"
        },
    )
    precompute_ref_log_probs: bool = field(
        default=True,
        metadata={"help": "one reference pass before training instead of a live reference in every step"},
    )
    precompute_ref_batch_size: int | None = field(
        default=None, metadata={"help": "pairs per device in that pass; null: per_device_eval_batch_size"}
    )
    reference_cache: bool = field(
        default=True,
        metadata={"help": "keep that pass's values on disk and compute only those of pairs that are not there"},
    )
    displacement_bound: float = field(
        default=50.0,
        metadata={"help": "warn when a bucket's chosen log-probability falls this many nats under the reference"},
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers wants to be told before it accepts bfloat16 there
        if self.bf16 is None:
            self.bf16 = not self.fp16 and hardware_has_bf16()
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(f"training settings: {error}") from error
        self._check()

    def _check(self) -> None:
        for name, (only, reason) in _UNSUPPORTED.items():
            if getattr(self, name, only) != only:
                raise InputError(f"{name} is {getattr(self, name)!r}, but only {only!r} works: {reason}")
        for name in self.loss_names:
            if name not in LOSSES:
                raise InputError(
                    f"no loss is named {name!r}", mend=f"loss_type is one or several of {', '.join(LOSSES)}"
                )
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_names):
            raise InputError(
                f"loss_weights has {len(self.loss_weights)} values for {len(self.loss_names)} losses in loss_type"
            )
        if self.beta <= 0:
            raise InputError(f"beta is {self.beta}; it must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 0.5)")
        for name in ("max_tokens_per_batch", "length_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        if self.sft_weight < 0:
            raise InputError(f"sft_weight is {self.sft_weight}; it must be 0 or more")
        for name, choices in (
            ("sft_target", get_args(SftTarget)),
            ("phase_schedule", get_args(PhaseSchedule)),
            ("engine", get_args(Engine)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(choices)}")

    @property
    def loss_names(self) -> list[str]:
        """`loss_type` as a list."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)

    def step_settings(self) -> StepSettings:
        """Return the part that the training step reads."""
        return StepSettings(
            loss_names=self.loss_names,
            loss_weights=self.loss_weights or [1.0] * len(self.loss_names),
            loss_settings=LossSettings(beta=self.beta, label_smoothing=self.label_smoothing),
            sft_weight=self.sft_weight,
        )

    def to_record(self) -> dict[str, Any]:
        """Return all settings as JSON-ready values without secrets, for `run.json`."""
        return {name: value for name, value in self.to_dict().items() if not name.endswith("_token")}
