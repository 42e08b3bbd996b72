"""Settings that say how a run is computed, not what, give the recorded trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trajectories import RUNS, assert_recorded, data_of, trainer_of

IN_TWO = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
IN_FOUR = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((run, {}) for run in RUNS),
    ("mixdpo", IN_TWO),
    ("mixdpo", IN_FOUR),
    ("rewarmed", IN_TWO),
    ("rewarmed", IN_FOUR),
    ("mixdpo", {"engine": "padded"}),
    ("kto", {"engine": "padded"}),
    ("weighted", {"engine": "padded"}),
    ("weighted", {**IN_TWO, "max_tokens_per_batch": 1}),
    ("calibrated", {**IN_TWO, "max_tokens_per_batch": 1}),
    ("mixdpo", {"max_tokens_per_batch": 100}),  # some batches in parts
    ("mixdpo", {"max_tokens_per_batch": 1}),  # every pair a part
    ("mixdpo", {**IN_TWO, "max_tokens_per_batch": 1}),
    ("mixdpo", {"precompute_ref_log_probs": False}),
    ("kto", {"precompute_ref_log_probs": False}),
    ("mixdpo", {"gradient_checkpointing": True}),
]


@pytest.mark.parametrize(("run", "changes"), WAYS, ids=str)
def test_one_trajectory(run: str, changes: dict[str, Any], tmp_path: Path) -> None:
    trainer_of(run, data_of(run, tmp_path), tmp_path / "run", **changes).train()
    assert_recorded(tmp_path / "run", run)


@pytest.mark.parametrize("run", ["mixdpo", "kto"])
def test_a_reference_from_the_cache(run: str, tmp_path: Path, computed: list[int]) -> None:
    data = data_of(run, tmp_path)
    for name in ("first", "second"):
        computed.clear()
        trainer_of(run, data, tmp_path / name).train()
    assert computed == []
    assert_recorded(tmp_path / "second", run)


def test_evaluation_and_checkpoints_in_between(tmp_path: Path) -> None:
    data, (held_out, _) = data_of("mixdpo", tmp_path), data_of("ten pairs", tmp_path)
    trainer_of(
        "mixdpo", data, tmp_path / "run", eval_dataset=held_out, eval_strategy="steps", eval_steps=3,
        save_strategy="steps", save_steps=4,
    ).train()  # fmt: skip
    assert_recorded(tmp_path / "run", "mixdpo")
