"""What is refused of DeepSpeed's checkpoints and adapters. Its runs: test_process_kinds.py."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model

from mixdpo.training.deepspeed_run import check_adapters, check_formats, check_zero_stage
from tiny import tiny_llama
from trainers import config

# What the first of two processes leaves in a checkpoint of theirs.
FILES = {
    2: ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"),
    3: ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"),
}


def run_of(kind: DistributedType, stage: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=kind, deepspeed_plugin=SimpleNamespace(zero_stage=stage))


@pytest.mark.parametrize(("was", "now"), [(2, 3), (3, 2), (2, 2), (3, 3)])
def test_another_stage_goes_not_on_from_a_checkpoint(tmp_path: Path, refused, was: int, now: int) -> None:
    shards = tmp_path / "global_step3"
    shards.mkdir()
    for name in FILES[was]:
        (shards / name).touch()
    accelerator = run_of(DistributedType.DEEPSPEED, now)
    if was == now:
        check_zero_stage(tmp_path, accelerator)
    else:
        refused(lambda: check_zero_stage(tmp_path, accelerator), "ZeRO-3", "zero_stage", str(tmp_path))


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"trainable_token_indices": [3]}])
def test_adapters_that_read_weights_outside_their_layers_are_refused_under_zero3(refused, setting: dict) -> None:
    adapters = [None, LoraConfig(**setting)]
    for plugin in (None, SimpleNamespace(zero_stage=2)):
        check_adapters(adapters, plugin)
    refused(lambda: check_adapters(adapters, SimpleNamespace(zero_stage=3)), *setting, "ZeRO-3")


def test_layers_trained_in_another_format_than_adapters_are_refused_under_zero3(refused) -> None:
    adapters = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    for dtype in (torch.float32, torch.bfloat16):
        policy = get_peft_model(tiny_llama().to(dtype), adapters)
        for plugin in (None, SimpleNamespace(zero_stage=2)):
            check_formats(policy, plugin)
        if dtype == torch.float32:
            check_formats(policy, SimpleNamespace(zero_stage=3))
    refused(lambda: check_formats(policy, SimpleNamespace(zero_stage=3)), "bfloat16 and float32", "ZeRO-3")


def test_runs_without_deepspeed_are_not_asked(tmp_path: Path) -> None:
    check_zero_stage(tmp_path, run_of(DistributedType.NO))


def test_deepspeed_is_told_that_there_is_no_gpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "")  # so that it is put back
    monkeypatch.delenv("DS_ACCELERATOR")
    config(tmp_path)
    assert os.environ["DS_ACCELERATOR"] == "cpu"
