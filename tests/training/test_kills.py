"""Runs that are killed or told to end, in processes of their own: they go on to the weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from forks import DieAt, forked, free_port, status_of
from mixdpo import MixDPOTrainer
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import trainer_for

_SAVED = {"save_strategy": "steps", "save_steps": 1}


class EndGroupAt(TrainerCallback):
    """Sends SIGTERM before a step to this process and all that it started, as launchers do."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            tell = ["kill", "-TERM", "--", f"-{os.getpgrp()}"]
            subprocess.run(tell, start_new_session=True, check=True)  # workers excuse signals of their own parent
            time.sleep(0.2)  # for workers to die of it


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_reference_pass(trainer: MixDPOTrainer) -> None:
    trainer.precompute_reference = die  # type: ignore[method-assign]


def before_step_2(trainer: MixDPOTrainer) -> None:
    trainer.add_callback(DieAt(2))


def in_the_second_checkpoint(trainer: MixDPOTrainer) -> None:
    original = trainer._save_optimizer_and_scheduler

    def save(folder: str) -> None:
        die() if trainer.state.global_step == 2 else original(folder)

    trainer._save_optimizer_and_scheduler = save


def before_step_3(trainer: MixDPOTrainer) -> None:
    trainer.add_callback(DieAt(3))


@pytest.fixture
def trainer_in(tokenizer, tmp_path) -> Callable[..., MixDPOTrainer]:
    pairs = chat_pairs(tmp_path, n=12)

    def make(folder: Path, **changes: Any) -> MixDPOTrainer:
        return trainer_for(tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder, **_SAVED, **changes)

    return make


def test_killed_four_times_it_has_the_weights_of_one_that_was_not(trainer_in, tmp_path) -> None:
    whole = trainer_in(tmp_path / "whole")
    whole.train()
    run = tmp_path / "run"

    def train(how_it_dies: Callable[[MixDPOTrainer], None]) -> None:
        trainer = trainer_in(run)
        how_it_dies(trainer)
        trainer.train(resume_from_checkpoint=(run / "checkpoint-1").exists())

    for how in (in_the_reference_pass, before_step_2, in_the_second_checkpoint, before_step_3):
        assert status_of(forked(lambda how=how: train(how))) == -signal.SIGKILL, how.__name__
    last = trainer_in(run)
    last.train(resume_from_checkpoint=True)
    for mine, other in zip(last.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_two_processes_end_after_the_same_step_though_one_is_told(trainer_in, tmp_path) -> None:
    port = str(free_port())

    def train(rank: int) -> None:
        trainer = trainer_in(tmp_path / "run", per_device_train_batch_size=2, num_train_epochs=2)
        trainer.args.save_strategy = "no"
        if rank == 1:
            trainer.add_callback(DieAt(2, signal.SIGTERM))
        trainer.train()

    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        forked(lambda rank=rank: train(rank), RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)
    ]
    assert [status_of(process) for process in processes] == [143, 143]
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert checkpoint.name in ("checkpoint-2", "checkpoint-3")
    assert {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= {path.name for path in checkpoint.iterdir()}


def test_workers_of_the_data_loader_outlive_a_signal_to_the_group(trainer_in, tmp_path) -> None:
    def train() -> None:
        os.setsid()
        trainer = trainer_in(tmp_path / "run", dataloader_num_workers=2, dataloader_prefetch_factor=1)
        trainer.add_callback(EndGroupAt(2))
        trainer.train()

    assert status_of(forked(train)) == 143
    assert (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").exists()
