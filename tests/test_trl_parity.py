"""Every pair on the preference route, same order: the run equals TRL's DPOTrainer step by step."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan
from synthetic import chat_pairs
from tiny import tiny_llama

trl = pytest.importorskip("trl")

COMPARED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


class Recorder(TrainerCallback):
    """Keeps the gradients of every step, before clipping takes effect on the weights."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        gradients = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
        self.gradients.append(gradients)


def settings(folder: Path, **changes) -> dict:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "beta": 0.2,
        "max_length": 256,
        **changes,
    }


def run_both(model, tokenizer, pairs: Dataset, tmp_path: Path, **changes):
    theirs_recorder, ours_recorder = Recorder(), Recorder()
    theirs = trl.DPOTrainer(
        copy.deepcopy(model),
        args=trl.DPOConfig(
            **settings(tmp_path / "trl", **changes),
            train_sampling_strategy="sequential",
            activation_checkpointing=False,
        ),
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
        callbacks=[theirs_recorder],
    )
    theirs.train()
    ours = MixDPOTrainer(
        copy.deepcopy(model),
        # Micro-batches of the same pairs, for losses that compare the pairs of one.
        args=MixDPOConfig(**settings(tmp_path / "ours", **changes), length_window=1),
        train_dataset=pairs,
        plan=make_plan(pairs, "dpo", order="as_is"),
        processing_class=tokenizer,
        callbacks=[ours_recorder],
    )
    ours.train()
    return theirs, ours, theirs_recorder.gradients, ours_recorder.gradients


def assert_same_run(theirs, ours, their_gradients, our_gradients, steps: int, noise: float = 2e-5) -> None:
    their_logs = [log for log in theirs.state.log_history if "loss" in log]
    our_logs = [log for log in ours.state.log_history if "loss" in log]
    assert len(their_logs) == len(our_logs) == steps
    for step, (a, b) in enumerate(zip(their_logs, our_logs, strict=True)):
        for name in COMPARED:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=noise), (step, name)
    assert their_logs[-1]["rewards/margins"] != pytest.approx(0, abs=1e-4), "the policy has moved"
    for step, (a, b) in enumerate(zip(their_gradients, our_gradients, strict=True)):
        assert a.keys() == b.keys()
        gaps = {name: float((b[name] - a[name]).norm()) for name in a}
        norms = {name: float(a[name].norm()) for name in a}
        assert math.hypot(*gaps.values()) < 1e-4 * math.hypot(*norms.values()), step
        # In a single tensor the two answers' gradients may nearly cancel, which leaves more of the rounding.
        worst = max(gaps, key=lambda name: gaps[name] / norms[name])
        assert gaps[worst] < 1e-3 * norms[worst], (step, worst)


@pytest.mark.parametrize("precompute", [True, False])
def test_tiny_llama_run_equals_trl(tokenizer, tmp_path, precompute: bool) -> None:
    pairs = chat_pairs(tmp_path)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")  # TRL loads its live reference from there
    result = run_both(model, tokenizer, pairs, tmp_path, precompute_ref_log_probs=precompute)
    assert_same_run(*result, steps=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "hinge"},
        {"loss_type": "ipo"},
        {"loss_type": "exo_pair", "label_smoothing": 0.1},
        {"loss_type": "nca_pair"},
        {"loss_type": "robust", "label_smoothing": 0.1},
        {"loss_type": "bco_pair"},
        {"loss_type": "sppo_hard"},
        {"loss_type": "aot"},
        {"loss_type": "aot_unpaired"},
        {"loss_type": "apo_zero"},
        {"loss_type": "apo_down"},
        {"loss_type": "discopop"},
        {"loss_type": "sigmoid_norm"},
        {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.7, 0.3]},
        {"f_divergence_type": "js_divergence"},
        {"ld_alpha": 0.4},
        {"use_weighting": True},
    ],
    ids=str,
)
def test_every_loss_of_trl(tokenizer, tmp_path, changes: dict) -> None:
    pairs = chat_pairs(tmp_path)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    result = run_both(model, tokenizer, pairs, tmp_path, max_steps=2, learning_rate=1e-3, **changes)
    assert_same_run(*result, steps=2)


@pytest.mark.slow
def test_smollm2_run_equals_trl(smollm2, alpaca_graded, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    pairs = load_pairs(str(alpaca_graded / "test.parquet"))
    lengths = [len(str(pair["prompt"]) + str(pair["chosen"]) + str(pair["rejected"])) for pair in pairs]
    shortest = sorted(range(len(pairs)), key=lengths.__getitem__)[:6]
    changes = {"max_steps": 3, "learning_rate": 1e-5, "beta": 0.1, "gradient_accumulation_steps": 1}
    result = run_both(model, tokenizer, pairs.select(shortest), tmp_path, **changes)
    # A reward is 0.1 times the difference of two sums of some 100 nats, each exact to about 1e-6 of itself.
    assert_same_run(*result, steps=3, noise=5e-5)
