"""A run that goes on from a checkpoint ends, to the bit, where the uninterrupted one ends."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from mixdpo import make_plan
from mixdpo.common.errors import RunError
from synthetic import chat_pairs
from tiny import byte_level_tokenizer, tiny_llama
from trainers import RecordingTrainer, step_logs, trainer_for

WAYS: dict[str, dict[str, Any]] = {
    "weights": {},
    "adapters with dropout": {"peft_config": LoraConfig(r=4, lora_dropout=0.1)},
    "moving statistics of alpha_dpo": {"loss_type": "alpha_dpo"},
    "moving statistics of beta_dpo": {"loss_type": "beta_dpo"},
    "answers to other prompts": {"loss_type": "kto"},
    "a reference that follows": {
        "sync_ref_model": True, "ref_model_sync_steps": 1, "precompute_ref_log_probs": False,
    },
}  # fmt: skip
STOPS = [("weights", 3), ("weights", 4), ("adapters with dropout", 3), *((way, 2) for way in WAYS)]


def make(way: str, folder: Path) -> RecordingTrainer:
    """Three steps an epoch, two epochs, a checkpoint after every step."""
    tokenizer = byte_level_tokenizer()
    pairs, held_out = chat_pairs(folder.parent, n=12), chat_pairs(folder.parent, n=6, seed=1)
    torch.manual_seed(0)
    return trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder, make_plan(pairs, "mixdpo_unsorted"),
        eval_dataset=held_out, num_train_epochs=2, save_strategy="steps", save_steps=1, eval_strategy="steps",
        eval_steps=2, **copy.deepcopy(WAYS[way]),
    )  # fmt: skip


def cut(whole: Path, folder: Path, step: int) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(whole, folder)
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    return folder


@pytest.mark.parametrize(("way", "step"), STOPS)  # in the middle of an epoch, at its end, in the next one
@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(way: str, step: int, tmp_path: Path) -> None:
    whole = make(way, tmp_path / "whole")
    whole.train()
    resumed = make(way, cut(tmp_path / "whole", tmp_path / "cut", step))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen.steps[:-1] == whole.seen.steps[step:-1]
    assert [m["loss"] for m in step_logs(tmp_path / "cut")] == [m["loss"] for m in step_logs(tmp_path / "whole")]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_statistics_that_cannot_be_read_are_not_begun_anew(tmp_path: Path) -> None:
    way = "moving statistics of alpha_dpo"
    make(way, tmp_path / "run").train()
    (cut(tmp_path / "run", tmp_path / "cut", 2) / "checkpoint-2" / "loss_statistics.json").write_text("{")
    with pytest.raises(RunError, match="moving statistics of the loss cannot be read"):
        make(way, tmp_path / "cut").train(resume_from_checkpoint=True)
