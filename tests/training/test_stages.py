"""Runs whose plan moves: what each stage trains, against what; interrupted they end where a whole one does."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig

from forks import DieAt, forked, status_of
from mixdpo import Plan, make_plan, score
from mixdpo.common.errors import RunError
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.run_folder import logged_metrics
from mixdpo.training.stages import mixed_reference
from synthetic import chat_pairs
from tiny import byte_level_tokenizer, margin_data, tiny_llama
from trainers import RecordingTrainer, cut, step_logs, trainer_for

MOVES = {"stages": 3, "stage_metric": "implicit_reward", "gate": "likelihood", "threshold": {"hardest": 0.4}}
SAVED = {"save_strategy": "steps", "save_steps": 1}


def trainer_in(folder: Path, plan: dict[str, Any] | None = None, **changes: Any) -> RecordingTrainer:
    """Three stages of eight pairs, two steps each."""
    tokenizer = byte_level_tokenizer()
    pairs = changes.pop("pairs", None) or chat_pairs(folder.parent, n=24)
    torch.manual_seed(0)
    settings = {"stage_reference": "replaced", "warmup_steps": 0, **changes}
    made = make_plan(pairs, **(MOVES if plan is None else plan))
    return trainer_for(tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, folder, made, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RecordingTrainer:
    """A run that nothing stopped, with all its checkpoints; not to be written to."""
    trainer = trainer_in(tmp_path_factory.mktemp("stages") / "whole", **SAVED)
    trainer.train()
    return trainer


def folder_of(trainer: RecordingTrainer) -> Path:
    return Path(trainer.args.output_dir)


def weights(trainer: RecordingTrainer) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.parameters()]


def same(one: RecordingTrainer, other: RecordingTrainer) -> None:
    for a, b in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def stage_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in logged_metrics(folder) if "stage" in line]


def test_a_gate_on_ties_leaves_tie_nu_alone(tmp_path, caplog) -> None:
    plan = {"name": "ties", "threshold": {"hardest": 0.25}, "stages": 3, "gate": "likelihood"}
    trainer = trainer_in(tmp_path / "run", plan, loss_type="davidson")
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert trainer._step_settings.loss_settings.tie_nu == pytest.approx(1 / 3)
    assert caplog.text.count("tie_nu is 0.3333, for 25.0 %") == 1  # at the start


@pytest.mark.parametrize("steps", [2, 4])
def test_steps_that_end_before_the_last_stage_are_refused(steps: int, tmp_path, refused) -> None:
    refused(lambda: trainer_in(tmp_path / "run", max_steps=steps), f"max_steps is {steps}", "a multiple of 3")


def ends_as(whole: RecordingTrainer, folder: Path, step: int, **changes: Any) -> None:
    resumed = trainer_in(cut(folder_of(whole), folder, step), **SAVED, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.seen.steps[:-1] == whole.seen.steps[step:-1]
    for name in ("loss", "learning_rate"):
        lines = [[m[name] for m in step_logs(folder_of(trainer))] for trainer in (resumed, whole)]
        assert lines[0] == lines[1]
    assert stage_lines(folder) == stage_lines(folder_of(whole))
    same(whole, resumed)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
@pytest.mark.slow
def test_a_run_resumed_within_a_stage_or_between_two_equals_a_whole_one(step: int, whole, tmp_path) -> None:
    ends_as(whole, tmp_path / "cut", step)


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (3, {"stage_reference": "mixed", "peft_config": LoraConfig(r=4, lora_dropout=0.1)}),
        (4, {"stage_reference": "kept", "loss_type": "alpha_dpo"}),
    ],
)
@pytest.mark.slow
def test_so_does_one_with_adapters_and_one_whose_loss_remembers(step: int, changes, tmp_path) -> None:
    whole = trainer_in(tmp_path / "whole", **SAVED, **changes)
    whole.train()
    ends_as(whole, tmp_path / "cut", step, **changes)


def test_killed_between_two_stages_and_while_the_policy_is_asked_it_ends_the_same(whole, tmp_path) -> None:
    def train(number: int) -> None:
        trainer = trainer_in(tmp_path / "run", **SAVED)
        asked = trainer._policy_logprobs

        def dies(stages, name):
            values = asked(stages, name)
            if stages.number == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return values

        trainer._policy_logprobs = dies
        if number == 3:
            trainer.add_callback(DieAt(6))
        trainer.train(resume_from_checkpoint=(tmp_path / "run" / "checkpoint-1").exists() or None)

    for number in (1, 2, 3):
        assert status_of(forked(lambda number=number: train(number))) == -signal.SIGKILL
    last = trainer_in(tmp_path / "run", **SAVED)
    last.train(resume_from_checkpoint=True)
    same(last, whole)
    assert stage_lines(tmp_path / "run") == stage_lines(folder_of(whole))


@pytest.mark.figure
def test_the_stages_of_a_run(tmp_path, caplog) -> None:
    trainer = trainer_in(
        tmp_path / "run", eval_dataset=chat_pairs(tmp_path, n=6, seed=1), eval_strategy="epoch", num_train_epochs=2
    )
    caplog.set_level(logging.INFO, logger="mixdpo")
    trainer.train()
    assert [len(step) for step in trainer.seen.steps[:-1]] == [4] * 12
    kept = Plan.load(tmp_path / "run" / "plan.parquet")
    assert (kept.route == ROUTES.index("sft")).sum() == 10, "the plan of the start, before the gate"
    first, *later = plans = [Plan.load(tmp_path / "run" / "plans" / f"stage-{k}.parquet") for k in (1, 2, 3)]
    start, *references = (
        pq.read_table(tmp_path / "run" / "reference" / f"{name}.parquet")
        for name in ("train", "train-stage-2", "train-stage-3")
    )
    hard = ROUTES.index("sft")
    for plan, table in zip(later, references, strict=True):
        policy, was = (np.stack([t["ref_chosen"], t["ref_rejected"]], axis=1).astype(float) for t in (table, start))
        gap = trainer.args.beta * ((policy - was)[:, 0] - (policy - was)[:, 1])
        np.testing.assert_allclose(plan.margin, gap, atol=1e-5)
        anew = make_plan(margin_data(plan.margin.tolist()), **MOVES)  # by the same function
        opened = plan.route == hard
        assert (opened <= anew.is_hard).all()
        assert (plan.route[anew.is_hard & ~opened] == ROUTES.index("drop")).all()
        stays = (plans[1].route == hard) & (plan.stages_before > 0) & (plan is plans[2])
        assert (opened == anew.is_hard & ((policy > was)[:, 0] | stays)).all()
    assert not (first.route == hard).any()
    lines = stage_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 4, 8]
    for line, plan in zip(lines[1:], later, strict=True):
        assert line["stage/gate/open"] == (plan.route == hard).sum()
        assert line["stage/gate/open"] + line["stage/gate/closed"] == 10
    assert (tmp_path / "run" / "stages.png").exists()
    messages = "\n".join(caplog.messages)
    assert "stage 2 of 3: 16 pairs, drawn from 8; routes" in messages
    assert "of 10 hard pairs through" in messages
    buckets = [pq.read_table(path)["bucket"] for path in sorted((tmp_path / "run" / "records").glob("*.parquet"))]
    assert buckets[0] == buckets[1] == buckets[2], "evaluation keeps the buckets of its data"


def test_a_gap_of_the_policy_is_the_metric_of_the_model_that_it_is(tmp_path) -> None:
    plan = {"threshold": {"hardest": 0.4}, "stages": 2, "stage_metric": "nll_gap"}
    trainer = trainer_in(tmp_path / "run", plan, save_strategy="epoch", max_length=60)
    trainer.train()
    second = Plan.load(tmp_path / "run" / "plans" / "stage-2.parquet")
    (checkpoint, _) = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: len(path.name))
    byte_level_tokenizer().save_pretrained(checkpoint)
    pairs = score(chat_pairs(tmp_path, n=24), "nll_gap", model=str(checkpoint), bf16=False)
    np.testing.assert_allclose(second.margin, pairs["margin/nll_gap"], atol=1e-5)


@pytest.mark.parametrize("changes", [{"max_tokens_per_batch": 60}, {"dataloader_num_workers": 2}])
def test_however_batches_are_made_the_stages_are_the_same(whole, tmp_path, changes) -> None:
    trainer_in(tmp_path / "other", **changes).train()
    losses = [[line["loss"] for line in step_logs(folder)] for folder in (folder_of(whole), tmp_path / "other")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_adapters_are_on_when_the_policy_is_asked(tmp_path) -> None:
    trainer_in(tmp_path / "run", peft_config=LoraConfig(r=4, target_modules="all-linear")).train()
    margin = Plan.load(tmp_path / "run" / "plans" / "stage-2.parquet").margin
    assert (np.abs(margin) > 1e-3).sum() > 12, "the base model is the reference, whose margins are all 0"


@pytest.mark.parametrize("changes", [{"loss_type": "simpo"}, {"precompute_ref_log_probs": False}])
def test_order_and_routes_move_without_reference_values(tmp_path, changes) -> None:
    plan = {"threshold": {"hardest": 0.4}, "stages": 3, "stage_metric": "reference_logp"}
    trainer_in(tmp_path / "run", plan, stage_reference="kept", **changes).train()
    assert all(line["stage/changed_route"] > 0 for line in stage_lines(tmp_path / "run")[1:2])


def test_memory_is_planned_for_the_longest_pairs_in_one_batch(whole) -> None:
    tokens = np.sort(whole._stages.every_pair.size_per_row()[:, 0])
    assert whole._memory.longest == tokens[-4:].sum()


def test_with_as_many_steps_as_are_asked_for(tmp_path) -> None:
    trainer = trainer_in(tmp_path / "run", max_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    assert [line["step"] for line in stage_lines(tmp_path / "run")] == [0, 3, 6]


def test_a_mixed_reference_is_a_geometric_mixture() -> None:
    reference, policy = np.array([[-3.0, -5.0]], np.float32), np.array([[-1.0, -9.0]])
    mixed = mixed_reference(reference, policy, 0.25)
    np.testing.assert_allclose(mixed, np.log(np.exp(policy) ** 0.25 * np.exp(reference) ** 0.75), rtol=1e-6)
    np.testing.assert_array_equal(mixed_reference(reference, policy, 1.0), policy.astype(np.float32))


@pytest.mark.parametrize(
    ("plan", "changes", "words"),
    [
        ({}, {}, ["stage_reference is replaced", "one stage"]),
        (MOVES, {"precompute_ref_log_probs": False}, ["stage_reference replaced", "plan.gate", "precompute_ref"]),
        (MOVES, {"loss_type": "simpo", "stage_reference": "kept"}, ["plan.stage_metric implicit_reward", "loss"]),
        (MOVES, {"sync_ref_model": True, "precompute_ref_log_probs": False}, ["both move the reference"]),
        (MOVES, {"phase_schedule": "rewarmed"}, ["phase_schedule rewarmed", "routes of all steps"]),
        (MOVES, {"loss_type": "kto"}, ["kto"]),
        (MOVES, {"ld_alpha": 0.5}, ["ld_alpha"]),
        (MOVES, {"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, ["outlive an epoch"]),
        (MOVES, {"stage_reference": "moved"}, ["stage_reference", "kept, replaced, mixed"]),
    ],
)
def test_what_stages_contradict_is_refused(tmp_path, plan, changes, words, refused) -> None:
    refused(lambda: trainer_in(tmp_path / "run", plan, **changes), *words)


def test_a_run_whose_stage_cannot_be_read_is_not_continued(whole, tmp_path) -> None:
    folder = cut(folder_of(whole), tmp_path / "cut", 3)
    (folder / "plans" / "stage-2.parquet").unlink()
    with pytest.raises(RunError, match=r"the plan of stage 2 cannot be read.*start the run anew"):
        trainer_in(folder, **SAVED).train(resume_from_checkpoint=True)
