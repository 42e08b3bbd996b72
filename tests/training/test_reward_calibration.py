"""Reward calibration in runs: what it starts from, how a step is cut, continuation, and what it is refused for."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from mixdpo import make_plan
from mixdpo.common.errors import InputError, RunError
from mixdpo.training.calibration_state import MOMENTUM, CalibrationState
from mixdpo.training.step_settings import step_settings
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import config, step_logs, trainer_for


def run(tokenizer, folder: Path, model=None, resume: str | None = None, **changes):
    pairs = chat_pairs(folder.parent, n=16)
    model = tiny_llama(vocab_size=len(tokenizer)) if model is None else model
    settings = {
        "reward_calibration": True, "lr_scheduler_type": "constant", "warmup_steps": 0, "save_strategy": "steps",
        "save_steps": 2,
    }  # fmt: skip
    trainer = trainer_for(
        copy.deepcopy(model), tokenizer, pairs, folder, make_plan(pairs, "dpo"), **settings | changes
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def same_weights(one, other) -> bool:
    other_weights = other.model.state_dict()
    return all(torch.equal(value, other_weights[name]) for name, value in one.model.state_dict().items())


def test_a_run_is_calibrated_from_its_second_step_and_continues_exactly(tokenizer, tmp_path) -> None:
    whole = run(tokenizer, tmp_path / "run")
    factors = [log["calibration"] for log in step_logs(tmp_path / "run")]
    assert factors[0] == 1
    assert all(factor not in (0, 1) for factor in factors[1:])
    run(tokenizer, tmp_path / "plain", reward_calibration=False)
    assert "calibration" not in step_logs(tmp_path / "plain")[0]
    losses = [[log["loss"] for log in step_logs(tmp_path / name)] for name in ("run", "plain")]
    assert losses[0][:2] == losses[1][:2]  # the first step's update is as it was, the second's is not
    assert losses[0][2] != losses[1][2]
    again = run(tokenizer, tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-2"))
    assert same_weights(whole, again)
    (tmp_path / "run" / "checkpoint-2" / "reward_calibration.json").write_text("{}")
    with pytest.raises(RunError, match="reward calibration cannot be read"):
        run(tokenizer, tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-2"))


def test_the_factor_does_not_depend_on_how_a_step_is_cut(tokenizer, tmp_path) -> None:
    run(tokenizer, tmp_path / "whole")
    run(tokenizer, tmp_path / "cut", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    whole, cut = ([log["calibration"] for log in step_logs(tmp_path / name)] for name in ("whole", "cut"))
    assert cut == pytest.approx(whole, rel=1e-4)


def test_moving_logarithms_by_hand(tmp_path) -> None:
    state = CalibrationState(Accelerator(cpu=True))
    assert state.factor == 1
    steps = [torch.tensor([[0.2, 0.4], [0.1, 0.3], [2.0, 4.0], [1.0, 1.0]]), torch.full((4, 1), 0.5)]
    logs = None
    for values in steps:
        state.add(values[:, :1])
        state.add(values[:, 1:])  # a micro-batch may have no such pair
        state.end_step()
        new = values.mean(1).log()
        logs = new if logs is None else MOMENTUM * logs + (1 - MOMENTUM) * new
    expected = torch.exp((logs[3] - logs[2] - logs[0] + logs[1]) / 2)
    torch.testing.assert_close(state.factor, expected)
    state.end_step()  # nor may a step
    state.add(torch.tensor([[-0.2], [0.1], [1.0], [1.0]]))  # chosen answers are past the loss's target
    state.end_step()
    torch.testing.assert_close(state.factor, expected)
    state.save(tmp_path)
    assert json.loads((tmp_path / "reward_calibration.json").read_text())["started"] is True
    loaded = CalibrationState(Accelerator(cpu=True))
    loaded.load(tmp_path)
    assert torch.equal(loaded.factor, state.factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": ["sigmoid", "chosen_floor"]}, "chosen_floor does not raise one answer and lower the other"),
        ({"loss_type": "apo_down"}, "apo_down does not raise"),
        ({"ld_alpha": 0.5}, "ld_alpha cuts them"),
        ({"max_tokens_per_batch": "auto"}, "takes memory that max_tokens_per_batch"),
    ],
)
def test_settings_that_contradict_it(tmp_path, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, reward_calibration=True, **changes)


def test_it_needs_packed_rows_and_a_chosen_answer(tokenizer, tmp_path) -> None:
    with pytest.raises(InputError, match="packed rows"):
        run(tokenizer, tmp_path / "run", engine="padded")
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, threshold={"hardest": 0.25}, hard_route="tie")
    with pytest.raises(InputError, match="tells chosen from rejected"):
        step_settings(config(tmp_path, reward_calibration=True, loss_type="davidson"), plan)
