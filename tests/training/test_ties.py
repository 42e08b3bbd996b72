"""Runs whose plan routes ties, as ties."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mixdpo import MixDPOConfig, load_pairs, make_plan
from mixdpo.training.step_settings import step_settings
from synthetic import chat_pairs, chat_rows
from tiny import tiny_llama
from trainers import step_logs, trainer_for

TIES = [0, 5, 9, 14]
"""Rows that a column calls ties, whatever their scores: two of each step's eight."""
STEADY = {"adam_epsilon": 1e-4}
"""Adam's first step is the gradient's sign, which rounding decides where the gradient is next to zero."""


def pairs_with_ties(folder: Path, n: int = 16) -> Dataset:
    rows = [{**row, "tie": index in TIES} for index, row in enumerate(chat_rows(n))]
    path = folder / "ties.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_pairs(str(path))


def logs_of(tokenizer, pairs: Dataset, folder: Path, **changes) -> list[dict]:
    plan = make_plan(pairs, "ties", threshold={"column": "tie"}, order="as_is")
    model = tiny_llama(vocab_size=len(tokenizer))
    changes = {"per_device_train_batch_size": 8, "warmup_steps": 0, **changes}
    trainer_for(copy.deepcopy(model), tokenizer, pairs, folder, plan, **changes).train()
    return step_logs(folder)


@pytest.mark.parametrize(("name", "nu"), [("rao_kupper", 5 / 3), ("davidson", 1 / 3)])
def test_ties_of_a_column_are_trained_as_ties(tokenizer, tmp_path, name: str, nu: float) -> None:
    """A quarter of the pairs ties, so that nu gives ties this probability while the policy is the reference."""
    pairs = pairs_with_ties(tmp_path)
    first, second = logs_of(tokenizer, pairs, tmp_path / "a", loss_type=name, **STEADY)
    expected = {
        "loss": -(2 * math.log(0.25) + 6 * math.log(0.375)) / 8,
        "loss/tie": -math.log(0.25),
        "loss/preference": -math.log(0.375),
        "rewards/tie_margins": 0.0,
    }
    assert {key: first[key] for key in expected} == pytest.approx(expected, abs=1e-4)
    assert second["rewards/tie_margins"] > 0
    for folder, changes in {
        "live": {"precompute_ref_log_probs": False},
        "padded": {"engine": "padded"},
        "cut": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "set": {"tie_nu": nu},
    }.items():
        again = logs_of(tokenizer, pairs, tmp_path / folder, loss_type=name, **STEADY, **changes)
        for key in (*expected, "grad_norm"):
            assert [log[key] for log in again] == pytest.approx([first[key], second[key]], rel=1e-4, abs=1e-6), folder


def test_training_brings_the_rewards_of_ties_together_and_parts_those_of_others(tokenizer, tmp_path) -> None:
    pairs = pairs_with_ties(tmp_path)
    first, *_, last = logs_of(
        tokenizer, pairs, tmp_path / "run", loss_type="rao_kupper", beta=0.5, num_train_epochs=15, learning_rate=3e-3
    )
    assert last["loss/preference"] < first["loss/preference"]
    assert last["rewards/margins"] > 2 * last["rewards/tie_margins"]


def test_without_ties_nu_is_the_papers(tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    assert step_settings(MixDPOConfig(loss_type="davidson"), make_plan(pairs, "dpo")).loss_settings.tie_nu is None
    plan = make_plan(pairs, "ties", threshold={"hardest": 0.25}, easy_route="drop")
    assert plan.tie_share == 1
    plan = make_plan(pairs, "ties", threshold={"hardest": 0.25}, easy_route="both")
    assert plan.tie_share == 0.25
    assert np.isclose(step_settings(MixDPOConfig(loss_type="davidson"), plan).loss_settings.tie_nu, 1 / 3)


def test_later_stages_keep_the_nu_of_the_start(tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    of_half, of_all = (
        make_plan(pairs, "ties", threshold={"hardest": 0.5}, easy_route=easy) for easy in ("preference", "drop")
    )
    of_none = make_plan(pairs, "dpo")
    args = MixDPOConfig(loss_type="rao_kupper")
    for start, nu in ((of_half, 3.0), (of_none, None)):
        for stage in (of_half, of_all, of_none):
            assert step_settings(args, stage, start).loss_settings.tie_nu == nu


def test_ties_that_cannot_be(tmp_path, refused) -> None:
    pairs = chat_pairs(tmp_path, n=8)
    plan = make_plan(pairs, "ties", threshold={"hardest": 0.25})
    for names in ("sigmoid", ["rao_kupper", "sft"]):
        refused(
            lambda names=names: step_settings(MixDPOConfig(loss_type=names), plan),
            "routes pairs to tie", "rao_kupper or davidson",
        )  # fmt: skip
    all_ties = make_plan(pairs, "ties", threshold={"hardest": 0.25}, easy_route="drop")
    refused(lambda: step_settings(MixDPOConfig(loss_type="davidson"), all_ties), "every pair is a tie", "set tie_nu")
    assert step_settings(MixDPOConfig(loss_type="davidson", tie_nu=2.0), all_ties).loss_settings.tie_nu == 2
    refused(lambda: MixDPOConfig(loss_type=["rao_kupper", "davidson"]), "one tie_nu in two ways")
    refused(lambda: MixDPOConfig(loss_type="rao_kupper", tie_nu=1.0), "tie_nu is 1.0", "above 1")
    refused(lambda: MixDPOConfig(loss_type="davidson", tie_nu=0.0), "tie_nu is 0.0")
    refused(lambda: MixDPOConfig(tie_nu=2.0), "sigmoid knows no ties", "leave it out")
