"""A run that goes on from a checkpoint ends, to the bit, where the uninterrupted one ends."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from mixdpo import make_plan
from mixdpo.common.errors import InputError, RunError
from mixdpo.training.checkpoints import checkpoint_to_continue, last_complete_checkpoint
from synthetic import chat_pairs
from tiny import byte_level_tokenizer, tiny_llama
from trainers import RecordingTrainer, cut, step_logs, trainer_for

WAYS: dict[str, dict[str, Any]] = {
    "weights": {},
    "adapters with dropout": {"peft_config": LoraConfig(r=4, lora_dropout=0.1)},
    "moving statistics of alpha_dpo": {"loss_type": "alpha_dpo"},
    "moving statistics of beta_dpo": {"loss_type": "beta_dpo"},
    "calibrated rewards and a loss that changes": {
        "loss_type": "dpo_shift", "dpo_shift_lambda_end": 0.5, "reward_calibration": True,
    },
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
    (cut(tmp_path / "run", tmp_path / "cut", 2) / "checkpoint-2" / "loss_statistics.json").write_text(
        '{"alpha_dpo": 1}'
    )
    with pytest.raises(RunError, match="moving statistics of the loss cannot be read"):
        make(way, tmp_path / "cut").train(resume_from_checkpoint=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    make("weights", folder).train()
    return folder


def halve(file: Path) -> None:
    """Cut a file as a power loss leaves it."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


TORN = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json", "trainer_state.json")


@pytest.mark.parametrize("name", TORN)
def test_a_torn_checkpoint_is_passed_over_in_one_line(name: str, whole: Path, tmp_path: Path, caplog) -> None:
    folder = cut(whole, tmp_path / "cut", 4)
    halve(folder / "checkpoint-4" / name)
    assert checkpoint_to_continue(folder) == folder / "checkpoint-3"
    (line,) = caplog.messages
    assert line.startswith(f"checkpoint-4 is broken ({name} cannot be read")
    assert line.endswith("the run goes on from checkpoint-3, the checkpoint before it")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_byte_that_changed_is_found_by_its_checksum(name: str, whole: Path, tmp_path: Path, caplog) -> None:
    folder = cut(whole, tmp_path / "cut", 4)
    with zipfile.ZipFile(folder / "checkpoint-4" / name) as archive:
        part = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray((folder / "checkpoint-4" / name).read_bytes())
    content[part.header_offset + 128 + part.file_size // 2] ^= 1  # behind the part's header
    (folder / "checkpoint-4" / name).write_bytes(content)
    assert checkpoint_to_continue(folder) == folder / "checkpoint-3"
    assert f"checkpoint-4 is broken ({name} cannot be read: its content does not have its checksum)" in caplog.text


@pytest.mark.parametrize("broken", ["empty", "missing", "all"])
def test_checkpoints_without_weights_are_no_whole_ones(broken: str, whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "cut", 2)
    for step in (1, 2) if broken == "all" else (2,):
        weights = folder / f"checkpoint-{step}" / "model.safetensors"
        weights.write_bytes(b"")
        if broken == "missing":
            weights.unlink()
    if broken != "all":
        assert last_complete_checkpoint(folder) == folder / "checkpoint-1"
        return
    with pytest.raises(InputError, match=r"no complete checkpoint.*checkpoint-2 is broken.*checkpoint-1 is broken"):
        checkpoint_to_continue(folder)


def test_a_run_goes_on_from_the_checkpoint_before_a_torn_one(whole: Path, tmp_path: Path, caplog) -> None:
    folder = cut(whole, tmp_path / "cut", 4)
    halve(folder / "checkpoint-4" / "optimizer.pt")
    resumed = make("weights", folder)
    resumed.train(resume_from_checkpoint=True)
    assert len([line for line in caplog.messages if "checkpoint-4 is broken" in line]) == 1
    assert [m["loss"] for m in step_logs(folder)] == [m["loss"] for m in step_logs(whole)]


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_no_run_goes_on_with_a_fresh_optimizer(name: str, whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "cut", 4)
    (folder / "checkpoint-4" / f"{name}.pt").unlink()
    for resume in (True, str(folder / "checkpoint-4")):
        with pytest.raises(InputError, match=f"holds no state of {name}"):
            make("weights", folder).train(resume_from_checkpoint=resume)


def test_a_run_that_saved_only_its_model_is_not_continued(whole: Path, tmp_path: Path) -> None:
    folder = cut(whole, tmp_path / "cut", 2)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):  # what save_only_model leaves out
        (folder / "checkpoint-2" / name).unlink()
    with pytest.raises(InputError, match=r"no state of optimizer and scheduler.*save_only_model"):
        make("weights", folder).train(resume_from_checkpoint=True)
