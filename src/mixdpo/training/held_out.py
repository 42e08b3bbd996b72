"""Training on some pairs to measure others: what the validation-loss metric asks of training."""

from __future__ import annotations

import gc
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate.utils import broadcast_object_list
from peft import LoraConfig

from mixdpo.common.errors import InputError
from mixdpo.common.processes import processes
from mixdpo.difficulty.validation_loss import HeldOutRun
from mixdpo.models.loading import load_policy, load_tokenizer
from mixdpo.plan.make_plan import make_plan
from mixdpo.training.checkpoints import last_complete_checkpoint
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.run_folder import recorded_template_date
from mixdpo.training.trainer import MixDPOTrainer

SHARE_PER_CHECKPOINT: Final = 0.1
"""Share of a run's steps after which it writes a checkpoint: what a killed run loses at most."""


def train_and_evaluate(run: HeldOutRun) -> pa.Table | None:
    """Train LoRA adapters by DPO on a run's pairs, and return the records of those it holds out.

    Where a run was killed, it goes on from its last checkpoint in the same folder. On other processes than the main
    one there are no records.

    Raises:
        InputError: the pairs of a step cannot be shared out evenly among the processes.
    """
    state, settings = processes(), run.settings
    per_device, accumulation = cut_step(settings.step_size, state.num_processes, settings.batch_size)
    (checkpoint,) = broadcast_object_list([last_complete_checkpoint(run.folder) if state.is_main_process else None])
    args = MixDPOConfig(
        output_dir=str(run.folder),
        learning_rate=settings.learning_rate,
        beta=settings.beta,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        assistant_only_loss=settings.assistant_only_loss,
        loss_turns=settings.loss_turns,
        mask_empty_thinking=settings.mask_empty_thinking,
        chat_template_kwargs=run.model.chat_template_kwargs,
        template_date=run.model.template_date or recorded_template_date(run.folder),
        bf16=settings.bf16,
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=accumulation,
        seed=run.seed,
        save_strategy="steps",
        save_steps=SHARE_PER_CHECKPOINT,
        save_total_limit=1,
        use_cpu=state.device.type == "cpu",
    )
    trainer = MixDPOTrainer(
        load_policy(run.model, with_adapters=True),
        args=args,
        train_dataset=run.trained,
        eval_dataset=run.scored,
        plan=make_plan(run.trained, "dpo", seed=run.seed),
        processing_class=load_tokenizer(run.model),
        peft_config=LoraConfig(
            r=settings.lora_r, lora_alpha=settings.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.evaluate()
    steps = trainer.state.global_step
    del trainer
    gc.collect()  # the next run loads a model of the same size
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return pq.read_table(run.folder / "records" / f"eval-step-{steps}.parquet") if state.is_main_process else None


def cut_step(pairs: int, processes: int, most: int) -> tuple[int, int]:
    """Return the pairs of a micro-batch, `most` at most, and how many of them each process takes to a step of `pairs`.

    Raises:
        InputError: the pairs cannot be shared out evenly.
    """
    share, left = divmod(pairs, processes)
    if left or not share:
        raise InputError(
            f"validation_loss cannot share {pairs} pairs of a step among {processes} processes",
            hint=f"set step_size to a multiple of {processes}",
        )
    per_device = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
    return per_device, share // per_device
