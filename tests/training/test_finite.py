"""A run whose losses, gradients or weights are not finite: it stops, says where and why, and saves nothing broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from mixdpo import MixDPOTrainer, load_pairs, make_plan
from mixdpo.common.errors import RunError
from mixdpo.training import finite_trainer
from mixdpo.training import trainer as trainer_module
from mixdpo.training.finite import check_loss_scale, weights_not_finite
from synthetic import chat_rows
from tiny import saved, tiny_llama
from trainers import step_logs, trainer_for

MARK = "Z"
"""A token of one pair only."""
PLANS: dict[str, dict[str, Any]] = {
    "preference": {"name": "dpo"},
    "sft": {"name": "sft_chosen"},
    "both": {"name": "uniform_mix"},
    "hard loss": {"name": "sft_chosen", "hard_loss_type": "simpo"},
}


def marked_pairs(folder: Path, n: int = 12, marked: int = 5) -> Dataset:
    """Pairs of which one, a loaded row from 0, has the mark in its chosen answer."""
    rows = chat_rows(n)
    rows[marked]["chosen"][0]["content"] += f" {MARK}"
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_pairs(path)


def model_where(tokenizer, value: float | None = None, token: str | None = None) -> torch.nn.Module:
    """A tiny model; the embedding of a token, of all without one, has a value."""
    model = tiny_llama(vocab_size=len(tokenizer))
    if value is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight[
                slice(None) if token is None else tokenizer.convert_tokens_to_ids(token)
            ] = value
    return model


def run_of(model, tokenizer, folder: Path, plan: str = "sft", *callbacks: TrainerCallback, **changes) -> MixDPOTrainer:
    settings = dict(PLANS[plan])
    pairs = marked_pairs(folder)
    values = {
        "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4,
        **{key: value for key, value in settings.items() if key != "name"}, **changes,
    }  # fmt: skip
    trainer = trainer_for(model, tokenizer, pairs, folder / "run", make_plan(pairs, settings["name"]), **values)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


class AtStep(TrainerCallback):
    """Does something to the model when a step, from 1, begins."""

    def __init__(self, step: int, do: Callable[[torch.nn.Module], None]) -> None:
        self.step, self.do = step, do

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            self.do(model)


@torch.no_grad()
def breaks_weights(model: torch.nn.Module) -> None:
    model.model.norm.weight[0] = torch.nan


def breaks_gradients(model: torch.nn.Module) -> None:
    model.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("run/checkpoint-*"))


def assert_sound(folder: Path) -> None:
    """All that lies on disk has finite weights, and no line of the log has a loss that is not."""
    from safetensors.torch import load_file

    for file in folder.glob("run/**/model.safetensors"):
        assert all(torch.isfinite(weights).all() for weights in load_file(file).values()), file
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in step_logs(folder / "run"))


@pytest.fixture(params=[1, 100], ids=["every step is read", "records are read late"])
def looks(request, monkeypatch) -> int:
    """Steps between two looks at the records, as on a CPU and as on a GPU."""
    monkeypatch.setattr(finite_trainer, "steps_between_looks", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("plan", PLANS)
def test_weights_that_are_broken_from_the_start(plan, tokenizer, tmp_path) -> None:
    trainer = run_of(model_where(tokenizer, torch.nan), tokenizer, tmp_path, plan)
    with pytest.raises(RunError, match=r"step 1: .* the model: .*model\.embed_tokens\.weight are not finite"):
        trainer.train()
    assert checkpoints(tmp_path) == []
    with pytest.raises(RunError, match="nothing is saved"):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("plan", PLANS)
def test_weights_that_break_later(plan, looks, tokenizer, tmp_path) -> None:
    """A checkpoint is due after the very step; what was saved before stays, and is the last."""
    trainer = run_of(model_where(tokenizer), tokenizer, tmp_path, plan, AtStep(4, breaks_weights))
    with pytest.raises(RunError, match=r"step 4: the loss of 4 of 4 pairs .*learning_rate \(it is 0\.001\)") as error:
        trainer.train()
    assert error.value.exit_status == 1
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert_sound(tmp_path)
    for row in trainer.seen.steps[3]:
        assert f"{trainer.train_dataset.loaded[row]['pair_id']} (" in str(error.value)


@pytest.mark.parametrize("due", ["log", "evaluation", "checkpoint", "end"])
def test_late_records_are_read_before_anything_that_is_kept(due, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(finite_trainer, "steps_between_looks", lambda device: 100)
    changes: dict[str, Any] = {"logging_steps": 1000, "save_strategy": "no"}
    if due == "log":
        changes["logging_steps"] = 5
    elif due == "evaluation":
        changes |= {"eval_strategy": "steps", "eval_steps": 5, "eval_dataset": marked_pairs(tmp_path)}
    elif due == "checkpoint":
        changes |= {"save_strategy": "steps", "save_steps": 5}
    trainer = run_of(model_where(tokenizer), tokenizer, tmp_path, "sft", AtStep(3, breaks_gradients), **changes)
    with pytest.raises(RunError, match=r"step 3: .*gradients are not"):
        trainer.train()
    assert trainer.state.global_step == 5
    assert checkpoints(tmp_path) == []
    assert not list(tmp_path.glob("run/records/*"))


def test_gradients_that_break_do_not_reach_the_weights(tokenizer, tmp_path) -> None:
    trainer = run_of(model_where(tokenizer), tokenizer, tmp_path, "preference", AtStep(2, breaks_gradients))
    with pytest.raises(RunError, match="step 2: the losses of its 4 pairs are finite and their gradients are not"):
        trainer.train()
    assert weights_not_finite(trainer.model) == []
    assert checkpoints(tmp_path) == ["checkpoint-1"]


def test_one_pair_alone(tokenizer, tmp_path, monkeypatch) -> None:
    original = trainer_module.pair_losses

    def broken(model, batch, *arguments, **carried):
        result = original(model, batch, *arguments, **carried)
        nan = torch.where(batch["row"] == 5, torch.nan, 1.0)
        return replace(
            result, losses=result.losses * nan, pairs=replace(result.pairs, chosen=result.pairs.chosen * nan)
        )

    monkeypatch.setattr(trainer_module, "pair_losses", broken)
    trainer = run_of(model_where(tokenizer), tokenizer, tmp_path, "sft", max_tokens_per_batch=60)
    pair = trainer.train_dataset.loaded[5]["pair_id"]
    with pytest.raises(
        RunError, match=rf"the loss of 1 of 4 pairs is not finite: pair {pair} .*that pair, for"
    ) as error:
        trainer.train()
    assert "row 6" in str(error.value)
    assert_sound(tmp_path)


def test_one_token_without_an_embedding(tokenizer, tmp_path) -> None:
    trainer = run_of(model_where(tokenizer, torch.nan, MARK), tokenizer, tmp_path, "sft")
    pair = trainer.train_dataset.loaded[5]["pair_id"]
    with pytest.raises(RunError, match=rf"the loss of 1 of 4 pairs is not finite: pair {pair} ") as error:
        trainer.train()
    assert "model.embed_tokens.weight" in str(error.value)


def test_the_reference_of_one_pair(tokenizer, tmp_path) -> None:
    trainer = run_of(model_where(tokenizer, torch.nan, MARK), tokenizer, tmp_path, "preference")
    pair = trainer.train_dataset.loaded[5]["pair_id"]
    with pytest.raises(RunError, match=rf"before step 1: the reference \(train\) .* 1 of 12 pairs: pair {pair} "):
        trainer.train()
    assert not (tmp_path / "run" / "reference").exists()


def test_a_live_reference(tokenizer, tmp_path) -> None:
    """The policy is sound, and a reference with weights of its own is not."""
    trainer = run_of(
        model_where(tokenizer), tokenizer, tmp_path, "preference",
        ref_model=model_where(tokenizer, torch.nan), precompute_ref_log_probs=False,
    )  # fmt: skip
    with pytest.raises(RunError, match=r"step 1: the loss of 4 of 4 .* the reference, which gives no finite"):
        trainer.train()


def test_an_infinite_loss_of_finite_log_probabilities(tokenizer, tmp_path, monkeypatch) -> None:
    original = trainer_module.pair_losses

    def infinite(*arguments, **carried):
        result = original(*arguments, **carried)
        return replace(result, losses=result.losses + torch.inf)

    monkeypatch.setattr(trainer_module, "pair_losses", infinite)
    with pytest.raises(RunError, match=r"step 1: the loss of 4 of 4 .*Likely cause: the loss, for"):
        run_of(model_where(tokenizer), tokenizer, tmp_path, "sft").train()


@pytest.mark.parametrize("saves", ["steps", "no"])
def test_an_update_that_breaks_the_weights(saves, tokenizer, tmp_path) -> None:
    """Losses and gradients of all steps are finite, and the weights behind the last are not."""

    class Update(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
            if state.global_step + 1 == state.max_steps:
                breaks_weights(model)

    trainer = run_of(model_where(tokenizer), tokenizer, tmp_path, "sft", Update(), save_strategy=saves, max_steps=2)
    with pytest.raises(RunError, match=r"after step 2: the weights model\.norm\.weight .*lower learning_rate"):
        trainer.train()
    assert checkpoints(tmp_path) == (["checkpoint-1"] if saves == "steps" else [])


def test_float16_is_named(tokenizer, tmp_path) -> None:
    trainer = run_of(model_where(tokenizer).half(), tokenizer, tmp_path, "sft", AtStep(2, breaks_weights))
    with pytest.raises(RunError, match=r"step 2: .*bfloat16 or float32 instead of float16, which ends at 65,504"):
        trainer.train()


def test_a_loss_scale_under_one() -> None:
    check_loss_scale(None, 3)
    check_loss_scale(SimpleNamespace(get_scale=lambda: 1.0), 3)
    with pytest.raises(RunError, match=r"after step 3: gradients are not finite at a loss scale of 0\.5"):
        check_loss_scale(SimpleNamespace(get_scale=lambda: 0.5), 3)


def test_a_checkpoint_with_broken_weights_is_not_continued(tokenizer, tmp_path) -> None:
    run_of(model_where(tokenizer), tokenizer, tmp_path, "sft", save_steps=4).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    again = run_of(model_where(tokenizer), tokenizer, tmp_path, "sft", AtStep(5, breaks_weights))
    with pytest.raises(RunError, match=r"step 5: .*the model: the weights model\.norm\.weight are not finite"):
        again.train(resume_from_checkpoint=True)


def test_nan_is_no_difference_between_packed_and_padded_rows(tokenizer, tmp_path, caplog) -> None:
    run_of(model_where(tokenizer, torch.nan), tokenizer, tmp_path)
    assert "log-probabilities of a few random tokens are not finite" in caplog.text
    assert "nan nats" not in caplog.text


@pytest.mark.slow
@pytest.mark.xdist_group("two processes")
def test_two_processes_stop_together_with_one_message(tokenizer, tmp_path) -> None:
    """The broken pair is on one of them."""
    marked_pairs(tmp_path)
    saved(model_where(tokenizer, torch.nan, MARK), tokenizer, tmp_path / "model")
    script = Path(__file__).parents[1] / "broken_run.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    messages = [(tmp_path / f"message-{rank}").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "step 1: the loss of 1 of 4 pairs is not finite" in messages[0]
    assert checkpoints(tmp_path) == []
