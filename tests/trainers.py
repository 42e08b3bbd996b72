"""Trainers of tiny models that write down what they saw."""

from __future__ import annotations

import shutil
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from mixdpo import MixDPOConfig, MixDPOTrainer, Plan, make_plan
from mixdpo.training.run_folder import logged_metrics


class StepPairs(TrainerCallback):
    """Writes down which rows each optimizer step saw."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = [[]]

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps.append([])


class RecordingTrainer(MixDPOTrainer):
    def __init__(self, *args, **kwargs) -> None:
        self.seen = StepPairs()
        super().__init__(*args, callbacks=[self.seen, *kwargs.pop("callbacks", [])], **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        rows = inputs["row"][inputs["weight"] > 0].tolist()
        self.seen.steps[-1] += rows
        return super().compute_loss(model, inputs, *args, **kwargs)


def config(folder: Path, **changes) -> MixDPOConfig:
    values = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        **changes,
    }
    return MixDPOConfig(**values)


def trainer_for(model, tokenizer, pairs: Dataset, folder: Path, plan: Plan | None = None, **changes):
    plan = plan or make_plan(pairs, threshold={"hardest": 0.25})
    extra = {
        name: changes.pop(name) for name in ("eval_dataset", "peft_config", "ref_model", "answers") if name in changes
    }
    return RecordingTrainer(
        model, args=config(folder, **changes), train_dataset=pairs, plan=plan, processing_class=tokenizer, **extra
    )


def step_logs(folder: Path) -> list[dict]:
    return [record for record in logged_metrics(folder) if "loss" in record]


def cut(whole: Path, folder: Path, step: int) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(whole, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    return folder
