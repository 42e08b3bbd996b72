"""Which checkpoints are deleted, and which kinds of runs go on from one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.utils import DistributedType

from mixdpo.training.checkpoints import check_training_state, delete_oldest
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import trainer_for


def checkpoint(run: Path, step: int, *files: str) -> Path:
    folder = run / f"checkpoint-{step}"
    for name in ("trainer_state.json", *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("there", "step", "limit", "best", "left"),
    [
        ([3, 6, 9], 9, None, None, [3, 6, 9]),
        ([3, 6, 9], 9, 2, None, [6, 9]),
        ([3, 6, 9], 9, 1, None, [9]),
        ([3, 6, 9], 9, 2, 3, [3, 9]),
        ([3, 6, 9], 9, 1, 3, [3, 9]),
        ([3, 6, 9, 12], 6, 2, None, [3, 6]),  # the run went back to 3: those of later steps are left from before
        ([8, 9, 10, 11], 11, 2, None, [10, 11]),
    ],
)
def test_the_oldest_by_step_are_deleted(tmp_path, there, step, limit, best, left) -> None:
    for number in there:
        checkpoint(tmp_path, number)
    delete_oldest(tmp_path, step, limit, best and f"elsewhere/checkpoint-{best}")
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == left


def test_a_clock_set_back_costs_no_checkpoint(tokenizer, tmp_path) -> None:
    trainer = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, chat_pairs(tmp_path, n=12), tmp_path / "run",
        save_strategy="steps", save_steps=1, save_total_limit=2,
    )  # fmt: skip
    original = trainer.loss_state.save

    def save(folder: Path) -> None:
        original(folder)
        for path in (tmp_path / "run").glob("checkpoint-*"):
            os.utime(path, (time.time() + 86400,) * 2)

    trainer.loss_state.save = save
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert trainer.args.save_total_limit == 2


_FILES = {
    DistributedType.NO: ["optimizer.pt", "scheduler.pt"],
    DistributedType.FSDP: ["optimizer.bin", "scheduler.pt"],
    DistributedType.DEEPSPEED: ["global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
}


@pytest.mark.parametrize("written", _FILES)
@pytest.mark.parametrize("read", [*_FILES, DistributedType.MULTI_GPU])
def test_a_checkpoint_of_another_kind_of_run_is_refused(
    tmp_path: Path, written: DistributedType, read: DistributedType, refused: Callable[..., object]
) -> None:
    folder = checkpoint(tmp_path, 3, *_FILES[written])
    same = read == written or (read == DistributedType.MULTI_GPU and written == DistributedType.NO)
    if same:
        check_training_state(folder, read, 1)
    else:
        refused(lambda: check_training_state(folder, read, 1), "the checkpoint is of a run", "this one runs", "launch")


def test_a_checkpoint_without_what_training_needs_is_refused(tmp_path, refused) -> None:
    refused(lambda: check_training_state(checkpoint(tmp_path, 1), DistributedType.NO, 1), "optimizer and scheduler")
    bare = checkpoint(tmp_path, 2, "optimizer.pt")
    refused(lambda: check_training_state(bare, DistributedType.NO, 1), "no state of scheduler", "save_only_model")
    cut = checkpoint(tmp_path, 3, *_FILES[DistributedType.DEEPSPEED])
    refused(lambda: check_training_state(cut, DistributedType.DEEPSPEED, 2), "for 1 processes", "this run has 2")
