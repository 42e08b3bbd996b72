"""A run that is told to end saves a checkpoint from which it goes on to the same weights."""

from __future__ import annotations

import copy
import signal
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mixdpo import MixDPOTrainer
from mixdpo.common.signals import Terminated, end_at_once, taking_signals
from mixdpo.training import stop
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import step_logs, trainer_for


class SignalAt(TrainerCallback):
    """Sends signals to this process before a step."""

    def __init__(self, step: int, *signals: int) -> None:
        self.step, self.signals = step, signals

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            for number in self.signals:
                signal.raise_signal(number)


@pytest.fixture
def run_to(tokenizer, tmp_path):
    """Make a trainer of three steps in a folder; signals come before the step that is named."""
    model, pairs = tiny_llama(vocab_size=len(tokenizer)), chat_pairs(tmp_path, n=12)

    def make(folder: str, *signals: int, at: int = 2, **changes: Any) -> MixDPOTrainer:
        changes = {"eval_dataset": pairs, **changes} if changes.get("eval_strategy") else changes
        trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / folder, **changes)
        trainer.add_callback(SignalAt(at, *signals))
        return trainer

    return make


def ends(trainer: MixDPOTrainer) -> None:
    with pytest.raises(Terminated) as ended:
        trainer.train()
    assert ended.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_it_goes_on_to_the_same_weights(run_to, tmp_path, caplog, number) -> None:
    whole = run_to("whole")
    whole.train()
    changes = {"eval_strategy": "steps", "eval_steps": 1}
    ends(run_to("told", number, **changes))
    assert f"{number.name}: {tmp_path / 'told' / 'checkpoint-2'} of 3 steps is saved; continue" in caplog.text
    assert not (tmp_path / "told" / "records" / "eval-step-2.parquet").exists(), "time is short"
    continued = run_to("told", **changes)
    continued.train(resume_from_checkpoint=True)
    assert [log["loss"] for log in step_logs(tmp_path / "told")] == [
        log["loss"] for log in step_logs(tmp_path / "whole")
    ]
    for mine, other in zip(continued.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_a_checkpoint_of_weights_alone_is_called_so(run_to, caplog) -> None:
    ends(run_to("told", signal.SIGTERM, save_only_model=True))
    assert "it cannot be continued, for save_only_model is true" in caplog.text


def test_at_the_last_step_the_run_ends_as_usual(run_to) -> None:
    assert run_to("told", signal.SIGTERM, at=3).train().global_step == 3


def test_sent_twice_by_scheduler_and_launcher_it_is_one_request(run_to, tmp_path) -> None:
    ends(run_to("told", signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1))
    assert (tmp_path / "told" / "checkpoint-2" / "trainer_state.json").exists()


def test_a_second_one_later_ends_it_at_once(run_to, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stop, "_SAME_REQUEST", 0.0)
    ends(run_to("told", signal.SIGTERM, signal.SIGTERM))
    assert not (tmp_path / "told" / "checkpoint-2").exists()


def test_a_program_that_answers_signals_itself_is_left_alone(run_to) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        assert run_to("own", signal.SIGTERM).train().global_step == 3
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_before_the_first_step_it_ends_at_once(run_to, tmp_path, monkeypatch) -> None:
    trainer = run_to("told")
    monkeypatch.setattr(trainer, "precompute_reference", lambda *_: signal.raise_signal(signal.SIGTERM))
    with taking_signals(end_at_once), pytest.raises(Terminated):
        trainer.train()
    assert not (tmp_path / "told" / "metrics.jsonl").read_text()
