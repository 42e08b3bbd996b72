"""Weights that give a shuffled run the learning rates of a sorted one."""

from __future__ import annotations

import copy
from unittest.mock import PropertyMock

import numpy as np
import pytest
import torch

from mixdpo import Plan, make_plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.rate_weights import rate_weights
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import step_logs, trainer_for


@pytest.fixture
def model(tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


SCHEDULE = {"num_train_epochs": 2, "lr_scheduler_type": "cosine", "warmup_steps": 1, "length_window": 1}


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.parametrize(
    ("plan", "changes"),
    [({}, {}), ({"threshold": {"hardest": 0.5}, "hard_route": "drop", "refill": True}, {"num_train_epochs": 1.5})],
)
def test_weights_are_the_learning_rates_of_a_sorted_run(
    model, tokenizer, tmp_path, capfd, plan: dict, changes: dict
) -> None:
    pairs = chat_pairs(tmp_path, n=14)
    ordered = make_plan(pairs, "dpo_sorted", **plan)
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "sorted", ordered, **SCHEDULE | changes)
    trainer.train()
    rate = np.zeros(14)
    for rows, log in zip(trainer.seen.steps, step_logs(tmp_path / "sorted"), strict=False):
        np.add.at(rate, rows, log["learning_rate"])
    trained = ordered.route != ROUTES.index("drop")
    capfd.readouterr()

    shuffled = trainer_for(
        model, tokenizer, pairs, tmp_path / "run", make_plan(pairs, "rate_weighted", **plan),
        eval_dataset=pairs, **SCHEDULE | changes,
    )  # fmt: skip
    shuffled.train()
    weight = shuffled.train_dataset.weight
    steps = shuffled.seen.steps[: len(step_logs(tmp_path / "run"))]  # what follows is the evaluation
    places = np.bincount(np.concatenate(steps).astype(np.int64), minlength=14)
    expected = rate[trained] / places[trained] * (places.sum() / rate.sum())
    np.testing.assert_allclose(weight[trained], expected, rtol=1e-6)
    assert np.average(weight, weights=places) == pytest.approx(1)
    assert len(set(weight[trained].round(6))) > 2
    assert (weight[~trained] == 1).all()
    assert (shuffled.eval_dataset.weight == 1).all()
    np.testing.assert_array_equal(Plan.load(tmp_path / "run" / "plan.parquet").weight, weight)
    assert "pair weights (rate): mean 1" in capfd.readouterr().err


def test_weights_are_the_same_however_a_step_is_cut(model, tokenizer, tmp_path, monkeypatch) -> None:
    pairs = chat_pairs(tmp_path, n=22)
    plan = make_plan(pairs, "rate_weighted")
    found = []
    for number, (batch, accumulation, processes) in enumerate([(4, 1, 1), (1, 4, 1), (2, 1, 2)]):
        trainer = trainer_for(
            model, tokenizer, pairs, tmp_path / str(number), plan,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **SCHEDULE,
        )  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(type(trainer.args), "world_size", PropertyMock(return_value=processes))
            found.append(rate_weights(trainer.train_dataset, trainer.args))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_constant_rate_changes_no_bit_of_a_run(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    ends = []
    for name in ("dpo", "rate_weighted"):
        trainer = trainer_for(
            copy.deepcopy(model), tokenizer, pairs, tmp_path / name, make_plan(pairs, name),
            lr_scheduler_type="constant",
        )  # fmt: skip
        trainer.train()
        ends.append(weights_of(trainer))
    assert_equal(*ends)


def test_a_continued_run_is_the_uninterrupted_one(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    plan = make_plan(pairs, "rate_weighted")
    settings = {**SCHEDULE, "save_strategy": "steps", "save_steps": 4}
    whole = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", plan, **settings)
    whole.train()
    again = trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    np.testing.assert_array_equal(again.train_dataset.weight, whole.train_dataset.weight)
    assert_equal(weights_of(again), weights_of(whole))


def test_pairs_that_the_sorted_run_does_not_reach_weigh_nothing(model, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    plan = make_plan(pairs, "rate_weighted")
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, max_steps=2, lr_scheduler_type="constant")
    reached = plan.in_order("easy_to_hard").epoch_rows(0, 1)[:8]
    weight = trainer.train_dataset.weight
    np.testing.assert_array_equal(np.flatnonzero(weight), np.sort(reached))
    assert weight[plan.epoch_rows(0, 1)[:8]].mean() == pytest.approx(1)


def test_a_run_without_a_pair_of_the_sorted_one_is_refused(model, tokenizer, tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=12)
    seeds = (make_plan(pairs, "rate_weighted", seed=seed) for seed in range(50))
    settings = {"max_steps": 1, "per_device_train_batch_size": 1}
    plan = next(
        plan for plan in seeds if plan.epoch_rows(0, 1)[0] != plan.in_order("easy_to_hard").epoch_rows(0, 1)[0]
    )
    refused(lambda: trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, **settings), "none of the pairs")


def test_other_orders_are_refused(tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=4)
    refused(lambda: make_plan(pairs, "dpo_sorted", weight="rate"), "order is easy_to_hard", "set order to shuffled")
