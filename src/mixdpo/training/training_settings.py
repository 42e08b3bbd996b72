"""The settings of a training run that are not transformers' own, and those with another default than there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mixdpo.data.data_settings import (
    ASSISTANT_ONLY_HELP,
    EMPTY_THINKING_HELP,
    LOSS_TURNS_HELP,
    TEMPLATE_DATE_HELP,
    TEMPLATE_KWARGS_HELP,
    LossTurns,
    TokenSettings,
)
from mixdpo.losses.loss_settings import LOSS_NAMES, LossSettings

SftTarget = Literal["chosen", "rejected", "both", "random"]
PhaseSchedule = Literal["shared", "rewarmed"]
Engine = Literal["auto", "packed", "padded"]
Auto = Literal["auto"]
StageReference = Literal["kept", "replaced", "mixed"]


@dataclass
class TrainingSettings(LossSettings):
    """The part of `MixDPOConfig` that can be read, as for `--help`, without importing transformers and PyTorch."""

    output_dir: str | None = field(default="runs/mixdpo", metadata={"help": "folder of the run"})
    learning_rate: float = field(
        default=1e-6, metadata={"help": "peak learning rate", "at_least": 0, "below": math.inf}
    )
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
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false"})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast; null: where the hardware has it and fp16 is off"}
    )

    loss_type: str | list[str] = field(
        default="sigmoid",
        metadata={"help": f"loss of the preference route, or a list of losses to add up: {', '.join(LOSS_NAMES)}"},
    )
    loss_weights: list[float] | None = field(
        default=None, metadata={"help": "one weight per entry of loss_type; null: all 1"}
    )
    hard_loss_type: str | list[str] = field(
        default="sft",
        metadata={"help": "loss of the routes sft and both: sft, which imitates sft_target, or any of loss_type's"},
    )
    ld_alpha: float | None = field(
        default=None,
        metadata={
            "help": "weight in [0, 1] of tokens beyond the shorter answer's length in the preference losses (LD-DPO); "
            "null: 1",
            "at_least": 0,
            "at_most": 1,
        },
    )
    use_weighting: bool = field(
        default=False, metadata={"help": "weigh each pair's preference loss by its probability under the policy (WPO)"}
    )
    reward_calibration: bool = field(
        default=False,
        metadata={
            "help": "share the preference losses' gradient out anew between chosen and rejected answers, so that the "
            "latter do not take the former down with them"
        },
    )
    sft_weight: float = field(
        default=1.0,
        metadata={"help": "factor of the hard loss on routes sft and both", "at_least": 0, "below": math.inf},
    )
    router_aux_loss_coef: float | None = field(
        default=None,
        metadata={
            "help": "factor of the loss that balances the routers of a mixture of experts; null: the model's own",
            "at_least": 0,
            "below": math.inf,
        },
    )
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
        default=1024,
        metadata={"help": "tokens of prompt + completion, cut on the right; null: no limit", "at_least": 2},
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "tokens of the prompt, cut on the left; null: no limit", "at_least": 1}
    )
    assistant_only_loss: bool = field(default=True, metadata={"help": ASSISTANT_ONLY_HELP})
    loss_turns: LossTurns = field(default="all", metadata={"help": LOSS_TURNS_HELP})
    mask_empty_thinking: bool = field(default=True, metadata={"help": EMPTY_THINKING_HELP})
    chat_template_kwargs: dict[str, Any] | None = field(default=None, metadata={"help": TEMPLATE_KWARGS_HELP})
    template_date: str | None = field(default=None, metadata={"help": TEMPLATE_DATE_HELP})
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
    use_liger_kernel: bool | None = field(
        default=None,
        metadata={
            "help": "let Liger's kernels compute norms, rotary embeddings and gated activations on a GPU; null: where "
            "liger-kernel is installed"
        },
    )
    max_tokens_per_batch: int | Auto | None = field(
        default=None,
        metadata={
            "help": "split a device's batch into micro-batches of at most this many tokens, as they are computed: "
            "packed rows hold each prompt once, padded ones their padding; auto: as many as the GPU's memory holds; "
            "null: one micro-batch",
            "at_least": 1,
        },
    )
    activation_checkpointing: bool | Auto | None = field(
        default=None,
        metadata={
            "help": "keep each layer's input alone for the backward pass, and compute the rest once more; auto: where "
            "the GPU's memory does not hold it; null: auto on a GPU, else false"
        },
    )
    gradient_checkpointing: bool | Auto | None = field(
        default=None, metadata={"help": "the older name of activation_checkpointing"}
    )
    length_window: int | None = field(
        default=None,
        metadata={
            "help": "pairs of the plan's order within which the longest come first; null: one optimizer step, so "
            "that steps keep their pairs; 1: the plan's order within steps too",
            "at_least": 1,
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
    sync_ref_model: bool = field(
        default=False, metadata={"help": "move the reference towards the policy every ref_model_sync_steps (TR-DPO)"}
    )
    ref_model_mixup_alpha: float = field(
        default=0.6, metadata={"help": "share of the policy in the new reference, in (0, 1]", "above": 0, "at_most": 1}
    )
    stage_reference: StageReference = field(
        default="kept",
        metadata={
            "help": "the reference of a plan's next stage (plan.stages): kept; replaced by the policy at the end of "
            "the last; or mixed, with ref_model_mixup_alpha of the policy's log-probabilities"
        },
    )
    ref_model_sync_steps: int = field(
        default=512, metadata={"help": "optimizer steps between two such moves", "at_least": 1}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "end the run when metric_for_best_model has not improved in so many evaluations; null: never",
            "at_least": 1,
        },
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "a smaller improvement than this counts as none", "at_least": 0}
    )
    displacement_bound: float = field(
        default=50.0,
        metadata={
            "help": "say when a bucket's chosen log-probability falls this many nats under the reference, which need "
            "be no damage"
        },
    )

    def token_settings(self) -> TokenSettings:
        """Return the part that tokenisation reads.

        Raises:
            InputError: a value is out of its range.
        """
        shared = {f.name for f in fields(TokenSettings)} - {"num_proc"}
        return TokenSettings(**{name: getattr(self, name) for name in shared}, num_proc=self.dataset_num_proc)
