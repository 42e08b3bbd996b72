"""The validation-loss metric of Selective DPO: the DPO loss of a pair under models that were not trained on it.

Training stands above this package and is handed in, as `TrainAndEvaluate`; `recipe/scoring.py` does so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mixdpo.common.cache import hold
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, cache_folder, digest
from mixdpo.common.processes import processes
from mixdpo.common.settings import key_values
from mixdpo.models.forward_settings import ForwardSettings
from mixdpo.models.model_settings import MODEL_HELP, ModelSettings, model_named

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

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
        default=None, metadata={"help": "random splits in two halves, 2 runs each; null: the preset's", "at_least": 1}
    )
    pairs_per_run: int | None = field(
        default=None,
        metadata={
            "help": "pairs each run is trained on, a random part of its half; null: the preset's",
            "at_least": 1,
        },
    )
    learning_rate: float = field(default=3e-5, metadata={"help": "peak learning rate of the runs"})
    beta: float = field(default=0.01, metadata={"help": "beta of the DPO loss, per nat"})
    lora_r: int = field(default=16, metadata={"help": "rank of the LoRA adapters on all linear layers", "at_least": 1})
    step_size: int = field(default=64, metadata={"help": "pairs per optimizer step over all devices", "at_least": 1})
    seed: int = field(default=42, metadata={"help": "seed of the splits and the runs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}; it is one of {', '.join(PRESETS)}")

    def amount(self) -> tuple[int, int | None]:
        """Return repetitions and pairs per run, with what the preset says of those that are not given."""
        repetitions, pairs = PRESETS[self.preset]
        return self.repetitions or repetitions, self.pairs_per_run or pairs


@dataclass(frozen=True, kw_only=True)
class HeldOutRun:
    """One run of the metric: DPO with LoRA adapters on some pairs, then a forward pass over others.

    Attributes:
        trained: the pairs to train on.
        scored: the pairs to evaluate.
        model: the model to start from.
        settings: learning rate, beta, rank, pairs of a step and limits of length.
        seed: of the adapters and the order.
        folder: for checkpoints; a run that was killed goes on from those it finds there.
    """

    trained: Dataset
    scored: Dataset
    model: ModelSettings
    settings: ValidationLossSettings
    seed: int
    folder: Path


TrainAndEvaluate = Callable[[HeldOutRun], "pa.Table | None"]
"""Returns, on the main process, a row per scored pair in their order with `chosen`, `rejected`, `ref_chosen` and
`ref_rejected`, log-probabilities in nats; None on other processes."""


def validation_loss(
    dataset: Dataset, settings: ValidationLossSettings, train_and_evaluate: TrainAndEvaluate
) -> np.ndarray:
    """Return minus the mean held-out DPO loss of every pair; float64, shape (N,).

    Each repetition splits the pairs at random in two halves, trains LoRA adapters by DPO on either, and takes the loss
    of each pair under the run that has not seen it. The losses of a finished run are kept in the cache, and so are the
    checkpoints of one under way, so what was killed goes on there.

    Source: Gao et al. 2025, "Principled Data Selection for Alignment" (arXiv 2502.09650), section 3.
    """
    from mixdpo.models.forward import all_tokens

    model = model_named(settings.model, "validation_loss.model")
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
            name = f"repetition-{repetition}-half-{number}"
            run = HeldOutRun(
                trained=dataset.select(trained),
                scored=dataset.select(scored),
                model=model,
                settings=settings,
                seed=settings.seed + repetition,
                # In the name, for a run goes on only in the micro-batches that it began in.
                folder=folder / f"{name}-{processes().num_processes}x{settings.batch_size}",
            )
            losses[repetition, scored] = _losses(run, folder / f"{name}.parquet", train_and_evaluate)
    return -losses.mean(axis=0)


def halves(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Split pairs at random in halves 0 and 1 of equally many different ids; int64, shape of `ids`.

    Pairs of the same id fall into the same half, or a run would be scored on what it was trained on.
    """
    unique, inverse = np.unique(ids, return_inverse=True)
    half: np.ndarray = (rng.permutation(len(unique)) % 2)[inverse]
    return half


def dpo_losses(records: pa.Table, beta: float) -> np.ndarray:
    """Return -log sigmoid(beta * h) of evaluated pairs, float64; h is the difference of the log-ratios."""
    chosen, rejected = (
        records[side].to_numpy().astype(np.float64) - records[f"ref_{side}"].to_numpy()
        for side in ("chosen", "rejected")
    )
    return np.logaddexp(0.0, -beta * (chosen - rejected))


def _losses(run: HeldOutRun, file: Path, train_and_evaluate: TrainAndEvaluate) -> np.ndarray:
    """Return the DPO losses of a run's scored pairs, from `file` if they are there; float64, on every process."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from accelerate.utils import broadcast_object_list

    main = processes().is_main_process
    with _held(file) if main else nullcontext():  # a second process that wants the same waits, and finds it done
        found: list[np.ndarray | None] = [pq.read_table(file)["loss"].to_numpy() if main and file.exists() else None]
        (losses,) = broadcast_object_list(found)
        if losses is not None:
            return np.asarray(losses)
        records = train_and_evaluate(run)
        if records is not None:
            found = [dpo_losses(records, run.settings.beta)]
            with atomic_path(file) as temporary:
                pq.write_table(pa.table({"pair_id": run.scored["pair_id"][:], "loss": found[0]}), temporary)
            for left in file.parent.glob(f"{file.stem}-*x*"):
                shutil.rmtree(left)
        (losses,) = broadcast_object_list(found)
        return np.asarray(losses)


def _held(file: Path) -> AbstractContextManager[Any]:
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    hold(file.parent)
    return FileLock(file.with_suffix(".lock"))


def _folder(dataset: Dataset, model: ModelSettings, settings: ValidationLossSettings) -> Path:
    """Return where the losses of runs with these weights, pairs and settings are kept; on the main process only."""
    from mixdpo.data.arrays import data_fingerprint
    from mixdpo.models.fingerprint import weights_digest
    from mixdpo.models.loading import load_policy

    if not processes().is_main_process:
        return cache_folder() / "validation_loss"
    deciding = {**key_values(settings), "model": None, "preset": None, "repetitions": None, "batch_size": None}
    weights = weights_digest(load_policy(model, with_adapters=True)) or repr(model)
    pairs = data_fingerprint(dataset)
    return cache_folder() / "validation_loss" / digest([weights, pairs, repr(deciding), repr(settings.amount()[1])])
