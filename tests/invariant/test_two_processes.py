"""Two processes over gloo: every optimizer step sees the pairs, and gives the loss, that one process would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distributed_run import train_together
from forks import run_group
from mixdpo import make_plan
from tiny import tiny_llama
from trainers import trainer_for
from trajectories import assert_recorded, data_of, trainer_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two processes")]

ALONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
PAIRED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
EVALUATED = {"eval_strategy": "epoch"}
STARTED: dict[str, dict[str, Any]] = {
    # The last step of an epoch is not full, and one process has less of it.
    "mixdpo": {"run": "mixdpo", "changes": {**ALONE, **EVALUATED, "save_strategy": "steps", "save_steps": 5}},
    "resumed": {"run": "mixdpo", "changes": {**ALONE, **EVALUATED, "save_strategy": "steps", "save_steps": 5}},
    # The last step leaves one process nothing but a copy; gradients meet only after a process's last micro-batch.
    "budget": {"run": "ten pairs", "changes": {**PAIRED, "max_tokens_per_batch": 1}},
    # Micro-batches of two pairs on two processes are one of four; what fills up the last one does not count.
    "kto": {"run": "kto", "changes": PAIRED},
    "weighted": {"run": "weighted", "changes": ALONE},
    "calibrated": {"run": "calibrated", "changes": ALONE},
    "rate weighted": {"run": "rate weighted", "changes": ALONE},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Where two processes made all the runs, one after the other; they found a part of a reference in the cache."""
    folder = tmp_path_factory.mktemp("two")
    runs = {label: {**given, "output": given["run"]} for label, given in STARTED.items()}
    runs["resumed"]["resume"] = str(folder / "mixdpo" / "checkpoint-5")
    (folder / "runs.json").write_text(json.dumps(runs))
    for run in dict.fromkeys(given["run"] for given in STARTED.values()):
        pairs, plan = data_of(run, folder)
        pairs.save_to_disk(str(folder / "data" / run / "pairs"))
        plan.save(folder / "data" / run / "plan.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXDPO_CACHE", str(folder / "cache" / "mixdpo"))
        pairs, _ = data_of("mixdpo", folder)
        part = pairs.select(range(7))
        trainer = trainer_for(
            tiny_llama(vocab_size=len(tokenizer)), tokenizer, part, folder / "part", make_plan(part, "dpo")
        )
        trainer.precompute_reference(trainer.train_dataset, "train")
    run_group(lambda: train_together(folder), processes=2, seconds=300)
    return folder


def seen(folder: Path, label: str) -> list[dict[str, Any]]:
    """What each process wrote down."""
    return [json.loads((folder / f"{label}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("run", ["mixdpo", "ten pairs", "kto", "weighted", "rate weighted"])
def test_the_trajectory_of_one(folder: Path, run: str) -> None:
    assert_recorded(folder / run, run)


def test_steps_and_records_of_one(folder: Path, tmp_path: Path) -> None:
    data = data_of("mixdpo", tmp_path)
    trainer = trainer_of("mixdpo", data, tmp_path / "one", eval_dataset=data[0].select(range(7)), **EVALUATED)
    trainer.train()
    together = [sorted(a + b) for a, b in zip(*(one["steps"] for one in seen(folder, "mixdpo")), strict=True)]
    assert together == [sorted(step) for step in trainer.seen.steps[:-1]]
    outputs = tmp_path / "one", folder / "mixdpo"
    for step in (5, 10):
        a, b = (pq.read_table(output / "records" / f"eval-step-{step}.parquet") for output in outputs)
        assert a["pair_id"] == b["pair_id"]
        np.testing.assert_allclose(a["chosen"], b["chosen"], atol=1e-3)
    for name in ("train", "eval"):
        a, b = (pq.read_table(output / "reference" / f"{name}.parquet") for output in outputs)
        for side in ("ref_chosen", "ref_rejected"):
            np.testing.assert_allclose(a[side].to_numpy(), b[side].to_numpy(), rtol=1e-5)


def test_the_cache_is_filled_together(folder: Path) -> None:
    _, plan = data_of("mixdpo", folder)
    (file,) = (folder / "cache" / "mixdpo" / "reference").glob("*.parquet")
    computed = {*np.flatnonzero(~plan.is_hard), *range(7)}
    assert pq.read_metadata(file).num_rows == len(computed) > 7


def test_a_resumed_run_goes_on_alike(folder: Path) -> None:
    for whole, resumed in zip(seen(folder, "mixdpo"), seen(folder, "resumed"), strict=True):
        assert resumed["steps"] == whole["steps"][5:]
        np.testing.assert_allclose(resumed["losses"], whole["losses"], rtol=1e-5)
