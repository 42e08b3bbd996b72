"""Answers of several turns are trained alike on packed and padded rows, with a cached and with a live reference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mixdpo import load_pairs, make_plan, score
from synthetic import agent_rows
from tiny import plain_logprob, tiny_llama
from trainers import step_logs, trainer_for

WAYS: list[dict[str, Any]] = [
    {"engine": "padded"},
    {"precompute_ref_log_probs": False},
    {"engine": "padded", "precompute_ref_log_probs": False},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    {"max_tokens_per_batch": 1},
]
LORA = LoraConfig(r=4, target_modules="all-linear")


@pytest.fixture
def pairs(tmp_path: Path) -> Dataset:
    Dataset.from_list(agent_rows(12)).to_parquet(tmp_path / "pairs.parquet")
    return score(load_pairs(str(tmp_path / "pairs.parquet")))


@pytest.mark.parametrize("adapters", [False, True], ids=["full", "lora"])
def test_one_trajectory(pairs, tokenizer, tmp_path, adapters: bool) -> None:
    def run(name: str, **changes: Any) -> list[dict[str, Any]]:
        model = tiny_llama(vocab_size=len(tokenizer), positions=512)
        extra = {"peft_config": LORA} if adapters else {}
        trainer_for(model, tokenizer, pairs, tmp_path / name, max_steps=3, **extra, **changes).train()
        return step_logs(tmp_path / name)

    expected = run("packed")
    for number, changes in enumerate(WAYS):
        for found, true in zip(run(str(number), **changes), expected, strict=True):
            for name in ("loss", "logps/chosen", "grad_norm"):
                assert found[name] == pytest.approx(true[name], rel=1e-4), (changes, name)


def of_turns(model: nn.Module, tokenizer, pair: dict[str, Any], side: str) -> tuple[Tensor, int]:
    """Log-probability of the assistant's turns, each behind all that was said before, and their number of tokens."""
    total, count = torch.zeros(()), 0
    messages = pair["prompt"] + pair[side]
    for number in range(len(pair["prompt"]), len(messages)):
        if messages[number]["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:number], add_generation_prompt=True, return_dict=False)
            turn = tokenizer(messages[number]["content"] + "<|im_end|>")["input_ids"]
            total, count = total + plain_logprob(model, before, turn), count + len(turn)
    return total, count


def test_losses_are_of_the_assistants_turns(pairs, tokenizer, tmp_path) -> None:
    """Easy pairs by DPO and hard ones by SFT, from the texts of the turns alone."""
    start, reference = (tiny_llama(seed, vocab_size=len(tokenizer), positions=512) for seed in (1, 0))
    plan = make_plan(pairs, threshold={"hardest": 0.5})
    trainer = trainer_for(
        copy.deepcopy(start), tokenizer, pairs, tmp_path / "run", plan, ref_model=reference, beta=0.2,
        learning_rate=0.0,
    )  # fmt: skip
    trainer.train()
    for log, rows in zip(step_logs(tmp_path / "run"), trainer.seen.steps, strict=False):
        losses = []
        for row in rows:
            (w, tokens), (r, _) = (of_turns(start, tokenizer, pairs[row], side) for side in ("chosen", "rejected"))
            ref_w, ref_r = (of_turns(reference, tokenizer, pairs[row], side)[0] for side in ("chosen", "rejected"))
            losses.append(-w / tokens if plan.is_hard[row] else -logsigmoid(0.2 * (w - ref_w - r + ref_r)))
        assert log["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert {bool(plan.is_hard[row]) for rows in trainer.seen.steps for row in rows} == {True, False}
