"""Weights and label probabilities of a plan in runs: 1 changes no bit, and others are the sum that is stated."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import logsigmoid

from mixdpo import make_plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.step_settings import step_settings, unread_labels
from synthetic import chat_pairs
from tiny import plain_logprob, tiny_llama
from trainers import config, trainer_for

HARDEST = {"threshold": {"hardest": 0.5}, "order": "shuffled"}
IN_FOUR = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}


@pytest.fixture
def model(tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


def weighted_pairs(folder: Path, weights: list[float], probabilities: list[float]) -> Dataset:
    pairs = chat_pairs(folder, n=len(weights))
    return pairs.add_column("weight/own", weights).add_column("label_probability", probabilities)


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"engine": "padded"},
        IN_FOUR,
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_tokens_per_batch": 1},
        {"loss_type": "ipo"},
        {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")},
    ],
    ids=["packed", "padded", "accumulated", "budget", "two-sided", "adapters"],
)
def test_ones_change_no_bit(way: dict[str, Any], model, tokenizer, tmp_path: Path) -> None:
    pairs = weighted_pairs(tmp_path, [1.0] * 8, [1.0] * 8)
    plans = {
        "per_pair": make_plan(pairs, **HARDEST, weight="own", label_probability="column"),
        0.0: make_plan(pairs, **HARDEST),
    }
    states = []
    for smoothing, plan in plans.items():
        trainer = trainer_for(
            copy.deepcopy(model), tokenizer, pairs, tmp_path / str(smoothing), plan, max_steps=3, warmup_steps=0,
            label_smoothing=smoothing, **way,
        )  # fmt: skip
        trainer.train()
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    ones, plain = states
    assert all(torch.equal(ones[name], plain[name]) for name in plain)


@pytest.mark.parametrize("loss", ["sigmoid", "label_routed"])
def test_a_step_is_the_weighted_sum_over_the_number_of_pairs(loss: str, model, tokenizer, tmp_path: Path) -> None:
    """A step of plain gradient descent over four micro-batches, by hand; a pair of weight 0 still counts as one."""
    weights, right = np.array([0.5, 0.0, 3.0, 1.25]), np.array([0.9, 1.0, 0.3, 0.75])
    pairs = weighted_pairs(tmp_path, weights.tolist(), right.tolist())
    plan = make_plan(pairs, threshold={"hardest": 0.25}, weight="own", label_probability="column")
    trainer = trainer_for(
        copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", plan, max_steps=1, optim="sgd", learning_rate=0.1,
        warmup_steps=0, lr_scheduler_type="constant", max_grad_norm=float("inf"), beta=0.2, loss_type=loss,
        label_smoothing="per_pair" if loss == "sigmoid" else 0.0, **IN_FOUR,
    )  # fmt: skip
    items = [trainer.train_dataset[row] for row in range(4)]
    trainer.train()
    total, start = torch.zeros(()), copy.deepcopy(model)
    for row, item in enumerate(items):
        chosen = plain_logprob(model, item.prompt_ids, item.chosen_ids)
        nll = -chosen / len(item.chosen_ids)
        one = nll
        if plan.route[row] == ROUTES.index("preference"):
            sides = {"chosen": item.chosen_ids, "rejected": item.rejected_ids}
            with torch.no_grad():
                reference = {side: plain_logprob(start, item.prompt_ids, ids) for side, ids in sides.items()}
            rejected = plain_logprob(model, item.prompt_ids, item.rejected_ids)
            z = 0.2 * ((chosen - reference["chosen"]) - (rejected - reference["rejected"]))
            share = max(2 * right[row] - 1, 0)
            by_name = {
                "sigmoid": -right[row] * logsigmoid(z) - (1 - right[row]) * logsigmoid(-z),
                "label_routed": -share * logsigmoid(z) + (1 - share) * nll,
            }
            one = by_name[loss]
        total = total + weights[row] * one
    assert {"preference", "sft"} == {ROUTES[code] for code in plan.route}
    (total / 4).backward()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total.item() / 4, rel=1e-5)
    for (name, before), after in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_what_starts_a_run_says_what_the_weights_add_up_to(model, tokenizer, tmp_path: Path, caplog, capsys) -> None:
    pairs = weighted_pairs(tmp_path, [2.0, 0.0, 1.0, 1.0], [1.0] * 4)
    for weight, printed in (("own", True), (None, False)):
        plan = make_plan(pairs, "dpo", weight=weight, label_probability=None if printed else "column")
        trainer = trainer_for(model, tokenizer, pairs, tmp_path / str(weight), plan, max_steps=1)
        with caplog.at_level(logging.INFO, logger="mixdpo"):
            trainer.train()
        err = " ".join(capsys.readouterr().err.split())
        words = [
            "pair weights (own): mean 1 ",
            "from 0 to 2, 1 of them 0",
            "sum 4 over 4 pairs",
            "effective pairs 2.7",
        ]
        assert [word in err for word in words] == [printed] * 4
        assert "in the data and not read: " in caplog.text
        assert ("not read: weight/own" in caplog.text) != printed
        assert ("nothing reads the plan's label_probability" in caplog.text) != printed
        caplog.clear()


def test_losses_that_read_labels_ask_for_them(tmp_path: Path, refused) -> None:
    pairs = weighted_pairs(tmp_path, [1.0] * 4, [0.75] * 4)
    routed, plain = config(tmp_path, loss_type="label_routed"), config(tmp_path)
    refused(lambda: step_settings(routed, make_plan(pairs, "dpo")), "label_routed reads", "column or agreement")
    told = make_plan(pairs, "dpo", label_probability="column")
    confident = make_plan(pairs, "dpo", label_probability="column", weight="label_confidence")
    assert step_settings(routed, told).loss_names == ["label_routed"]
    assert unread_labels(routed, told) is None
    assert unread_labels(config(tmp_path, label_smoothing="per_pair"), told) is None
    assert unread_labels(plain, confident) is None
    assert "nothing reads the plan's label_probability" in str(unread_labels(plain, told))
