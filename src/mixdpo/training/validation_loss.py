"""The validation-loss metric of Selective DPO: the DPO loss of a pair under models that were not trained on it."""

from __future__ import annotations

import gc
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from filelock import FileLock
from peft import LoraConfig

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, cache_folder, digest
from mixdpo.data import data_fingerprint
from mixdpo.models.fingerprint import weights_digest
from mixdpo.models.forward import MODEL_HELP, ForwardSettings, all_tokens, model_settings
from mixdpo.models.loading import ModelSettings, load_policy, load_tokenizer
from mixdpo.plan.planning import make_plan
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.run_folder import last_complete_checkpoint
from mixdpo.training.trainer import MixDPOTrainer

SHARE_PER_CHECKPOINT: Final = 0.1
"""Share of a run's steps after which it writes a checkpoint: what a killed run loses at most."""

Preset = Literal["published", "cheap"]

PRESETS: Final[dict[Preset, tuple[int, int | None]]] = {"published": (3, None), "cheap": (1, 1000)}
"""Repetitions, and pairs that each run is trained on (None: its whole half)."""


@dataclass(frozen=True, kw_only=True)
class ValidationLossSettings(ForwardSettings):
    """Settings of `validation_loss`. Rate, beta and rank are those of the method's authors for 8B models.

    Raises:
        InputError: a value is out of its range.
    """

    model: str | dict[str, Any] | ModelSettings | None = field(
        default=None, metadata={"help": f"the model training starts from: {MODEL_HELP}", "recipe": "model"}
    )
    preset: Preset = field(
        default="published",
        metadata={"help": "published: 3 repetitions on whole halves; cheap: 1 repetition on 1,000 pairs of each half"},
    )
    repetitions: int | None = field(
        default=None, metadata={"help": "random splits in two halves, 2 runs each; null: the preset's"}
    )
    pairs_per_run: int | None = field(
        default=None, metadata={"help": "pairs each run is trained on, a random part of its half; null: the preset's"}
    )
    learning_rate: float = field(default=3e-5, metadata={"help": "peak learning rate of the runs"})
    beta: float = field(default=0.01, metadata={"help": "beta of the DPO loss, per nat"})
    lora_r: int = field(default=16, metadata={"help": "rank of the LoRA adapters on all linear layers"})
    step_size: int = field(default=64, metadata={"help": "pairs per optimizer step over all devices"})
    seed: int = field(default=42, metadata={"help": "seed of the splits and the runs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}; it is one of {', '.join(PRESETS)}")
        for name in ("repetitions", "pairs_per_run", "lora_r", "step_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")

    def amount(self) -> tuple[int, int | None]:
        """Return repetitions and pairs per run, with what the preset says of those that are not given."""
        repetitions, pairs = PRESETS[self.preset]
        return self.repetitions or repetitions, self.pairs_per_run or pairs


def validation_loss(dataset: Dataset, settings: ValidationLossSettings) -> np.ndarray:
    """Return minus the mean held-out DPO loss of every pair; float64, shape (N,).

    Each repetition splits the pairs at random in two halves, trains LoRA adapters by DPO on either, and takes the loss
    of each pair under the run that has not seen it. The losses of a finished run are kept in the cache, and so are the
    checkpoints of one under way, so what was killed goes on there.

    Source: Gao et al. 2025, "Principled Data Selection for Alignment" (arXiv 2502.09650), section 3.
    """
    model = model_settings(settings.model, "validation_loss.model")
    all_tokens(dataset, model, settings.token_settings(), "validation_loss")
    ids = np.asarray(dataset["pair_id"][:])
    if len(np.unique(ids)) < 2:
        raise InputError("validation_loss needs at least two different pairs, one for each half")
    repetitions, pairs_per_run = settings.amount()
    trained_pairs = min(len(np.unique(ids)) // 2, pairs_per_run or len(ids))
    if trained_pairs <= settings.step_size:
        raise InputError(
            f"each run of validation_loss would train {trained_pairs} pairs in one step of {settings.step_size}, "
            "and the first step of a warm-up has rate 0",
            hint="set step_size to a part of that, or give more pairs",
        )
    folder = _folder(dataset, model, settings)
    losses = np.full((repetitions, len(ids)), np.nan)
    for repetition in range(repetitions):
        rng = np.random.default_rng([settings.seed, repetition])
        half = halves(ids, rng)
        for number in (0, 1):
            trained, scored = (np.flatnonzero(half == side) for side in (number, 1 - number))
            trained = np.sort(rng.permutation(trained)[:pairs_per_run])
            file = folder / f"repetition-{repetition}-half-{number}.parquet"
            with _held(file):  # a second process that wants the same waits, and finds it done
                known = [pq.read_table(file)["loss"].to_numpy() if _on_main() and file.exists() else None]
                (loss,) = broadcast_object_list(known)
                if loss is None:
                    loss = _run(dataset.select(trained), dataset.select(scored), model, settings, file, repetition)
            losses[repetition, scored] = loss
    return -losses.mean(axis=0)


def halves(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Split pairs at random in halves 0 and 1 of equally many different ids; int64, shape of `ids`.

    Pairs of the same id fall into the same half, or a run would be scored on what it was trained on.
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    half: np.ndarray = (rng.permutation(len(unique)) % 2)[inverse]
    return half


def _held(file: Path) -> AbstractContextManager[Any]:
    """Hold a file's lock, on the main process."""
    if not _on_main():
        return nullcontext()
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_suffix(".lock"))


def _folder(dataset: Dataset, model: ModelSettings, settings: ValidationLossSettings) -> Path:
    """Return where the losses of runs with these weights, pairs and settings are kept; on the main process only."""
    if not _on_main():
        return cache_folder() / "validation_loss"
    deciding = {**asdict(settings), "model": None, "preset": None, "repetitions": None, "batch_size": None}
    weights = weights_digest(load_policy(model, with_adapters=True)) or repr(model)
    pairs = data_fingerprint(dataset)
    return cache_folder() / "validation_loss" / digest([weights, pairs, repr(deciding), repr(settings.amount()[1])])


def _run(
    trained: Dataset,
    scored: Dataset,
    model: ModelSettings,
    settings: ValidationLossSettings,
    file: Path,
    repetition: int,
) -> np.ndarray:
    """Train on pairs, write the DPO losses of others to `file`, and return them; float64, shape (len(scored),).

    Where a run of the same name was killed, it goes on from its last checkpoint.
    """
    processes = PartialState().num_processes
    per_device, accumulation = cut_step(settings.step_size, processes, settings.batch_size)
    # In the name, for a run goes on only in the micro-batches that it began in.
    folder = file.with_name(f"{file.stem}-{processes}x{settings.batch_size}")
    (checkpoint,) = broadcast_object_list([last_complete_checkpoint(folder) if _on_main() else None])
    args = MixDPOConfig(
        output_dir=str(folder),
        learning_rate=settings.learning_rate,
        beta=settings.beta,
        max_length=settings.max_length,
        max_prompt_length=settings.max_prompt_length,
        bf16=settings.bf16,
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=accumulation,
        seed=settings.seed + repetition,
        save_strategy="steps",
        save_steps=SHARE_PER_CHECKPOINT,
        save_total_limit=1,
        use_cpu=PartialState().device.type == "cpu",
    )
    trainer = MixDPOTrainer(
        load_policy(model, with_adapters=True),
        args=args,
        train_dataset=trained,
        eval_dataset=scored,
        plan=make_plan(trained, "dpo", seed=settings.seed + repetition),
        processing_class=load_tokenizer(model),
        peft_config=LoraConfig(
            r=settings.lora_r, lora_alpha=settings.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.evaluate()
    found: list[np.ndarray | None] = [None]
    if _on_main():
        records = pq.read_table(folder / "records" / f"eval-step-{trainer.state.global_step}.parquet")
        found = [dpo_losses(records, settings.beta)]
        with atomic_path(file) as temporary:
            pq.write_table(pa.table({"pair_id": records["pair_id"], "loss": found[0]}), temporary)
        for left in file.parent.glob(f"{file.stem}-*x*"):
            shutil.rmtree(left)
    del trainer
    gc.collect()  # the next run loads a model of the same size
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    (losses,) = broadcast_object_list(found)
    return np.asarray(losses)


def dpo_losses(records: pa.Table, beta: float) -> np.ndarray:
    """Return -log sigmoid(beta * h) of evaluated pairs, float64; h is the difference of the log-ratios."""
    chosen, rejected = (
        records[side].to_numpy().astype(np.float64) - records[f"ref_{side}"].to_numpy()
        for side in ("chosen", "rejected")
    )
    return np.logaddexp(0.0, -beta * (chosen - rejected))


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


def _on_main() -> bool:
    return PartialState().is_main_process
