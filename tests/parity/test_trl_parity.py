"""Every pair on the preference route, same order: the run equals TRL's DPOTrainer step by step."""

from __future__ import annotations

import copy
import importlib
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from prompt_groups import tiny
from synthetic import agent_rows, chat_pairs
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


def run_both(model, tokenizer, pairs: Dataset, tmp_path: Path, ours: dict | None = None, **changes):
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
    our_run = MixDPOTrainer(
        copy.deepcopy(model),
        # Micro-batches of the same pairs, for losses that compare the pairs of one.
        args=MixDPOConfig(**settings(tmp_path / "ours", **changes | (ours or {})), length_window=1),
        train_dataset=pairs,
        plan=make_plan(pairs, "dpo", order="as_is"),
        processing_class=tokenizer,
        callbacks=[ours_recorder],
    )
    our_run.train()
    return theirs, our_run, theirs_recorder.gradients, ours_recorder.gradients


def assert_same_run(theirs, ours, their_gradients, our_gradients, steps: int, noise: float = 2e-5) -> None:
    their_logs = [log for log in theirs.state.log_history if "loss" in log]
    our_logs = [log for log in ours.state.log_history if "loss" in log]
    assert len(their_logs) == len(our_logs) == steps
    for step, (a, b) in enumerate(zip(their_logs, our_logs, strict=True)):
        for name in COMPARED:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=noise), (step, name)
    assert their_logs[-1]["rewards/margins"] != pytest.approx(0, abs=1e-4), "the policy has moved"
    assert_same_gradients(their_gradients, our_gradients)


def assert_same_gradients(theirs: list[dict[str, torch.Tensor]], ours: list[dict[str, torch.Tensor]]) -> None:
    for step, (a, b) in enumerate(zip(theirs, ours, strict=True)):
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
@pytest.mark.slow
def test_every_loss_of_trl(tokenizer, tmp_path, changes: dict) -> None:
    pairs = chat_pairs(tmp_path)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    result = run_both(model, tokenizer, pairs, tmp_path, max_steps=2, learning_rate=1e-3, **changes)
    assert_same_run(*result, steps=2)


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_answers_of_several_turns_trained_throughout_equal_trl(tokenizer, tmp_path, engine: str) -> None:
    Dataset.from_list(agent_rows(12)).to_parquet(tmp_path / "pairs.parquet")
    pairs = score(load_pairs(str(tmp_path / "pairs.parquet")))
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ours = {"engine": engine, "assistant_only_loss": False}
    assert_same_run(*run_both(model, tokenizer, pairs, tmp_path, ours, max_steps=2), steps=2)


MIXTURES = {
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 16}),
    "olmoe": ("Olmoe", {"num_experts": 4}),
    "gpt-oss": ("GptOss", {"num_local_experts": 4, "sliding_window": 16, "max_position_embeddings": 131072,
                           "layer_types": ["sliding_attention", "full_attention"]}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "engine", "changes"),
    [
        ("mixtral", "packed", {}),
        ("mixtral", "padded", {}),
        ("qwen3-moe", "packed", {}),
        ("qwen3-moe", "padded", {"router_aux_loss_coef": 0.2}),
        ("qwen3-moe", "packed", {"router_aux_loss_coef": 0.0}),
        ("olmoe", "packed", {}),
        ("gpt-oss", "padded", {}),
    ],
)
def test_routers_are_balanced_as_by_trl(tokenizer, tmp_path, name: str, engine: str, changes: dict) -> None:
    family, sizes = MIXTURES[name]
    sizes = {**sizes, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5, "vocab_size": len(tokenizer)}
    tiny(family, **sizes).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    pairs, settings = chat_pairs(tmp_path), {"max_steps": 2, **changes}
    theirs, ours, *gradients = run_both(model, tokenizer, pairs, tmp_path, {"engine": engine}, **settings)
    assert_same_run(theirs, ours, *gradients, steps=2)
    found, expected = ([log.get("aux_loss") for log in run.state.log_history[:2]] for run in (ours, theirs))
    assert found == ([None, None] if changes.get("router_aux_loss_coef") == 0 else pytest.approx(expected, rel=1e-4))


def text_pairs(folder: Path, tokenizer) -> Dataset:
    """Plain texts whose prompts are one token: TRL's ORPO counts the prompt's own likelihood in its NLL, which is
    that of all but the first token, and so nothing here."""
    words = ("tea", "cat", "dog", "fox")
    answers = [(f" {a} {b} {a}", f" {b} {c}") for a, b, c in zip(words, words[1:], words[2:] + words, strict=False)]
    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, "score_chosen": 2.0, "score_rejected": 1.0}
        for prompt, (chosen, rejected) in zip("ABC", answers, strict=True)
    ]
    assert {len(tokenizer(row["prompt"])["input_ids"]) for row in rows} == {1}
    Dataset.from_list(rows).to_parquet(folder / "texts.parquet")
    return score(load_pairs(str(folder / "texts.parquet")))


def loss_and_gradients(trainer, recorder: Recorder) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], recorder.gradients


OWN_TRAINERS = {
    "cpo": ("CPO", {"loss_type": "sigmoid", "cpo_alpha": 0.7}, {"loss_type": "cpo", "cpo_alpha": 0.7}),
    "simpo": ("CPO", {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.3},
              {"loss_type": "simpo", "simpo_gamma": 0.3}),
    "alphapo": ("CPO", {"loss_type": "alphapo", "alpha": 0.4, "simpo_gamma": 0.3},
                {"loss_type": "alphapo", "alphapo_alpha": 0.4, "simpo_gamma": 0.3}),
    "cpo_hinge": ("CPO", {"loss_type": "hinge", "cpo_alpha": 0.7}, {"loss_type": "cpo_hinge", "cpo_alpha": 0.7}),
    "cpo_ipo": ("CPO", {"loss_type": "ipo", "cpo_alpha": 0.7}, {"loss_type": "cpo_ipo", "cpo_alpha": 0.7}),
    "sft": ("DPO", {"loss_type": "sft"}, {"loss_type": "sft"}),
    "orpo": ("ORPO", {}, {"loss_type": "orpo"}),
    "kto": ("KTO", {"desirable_weight": 1.2, "undesirable_weight": 0.7},
            {"loss_type": "kto", "desirable_weight": 1.2, "undesirable_weight": 0.7}),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_TRAINERS)
@pytest.mark.slow
def test_losses_with_a_trainer_of_their_own(tokenizer, tmp_path, name: str) -> None:
    kind, their_changes, our_changes = OWN_TRAINERS[name]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None  # these trainers put one before every text
    pairs = text_pairs(tmp_path, tokenizer)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    module = {"CPO": "trl.experimental.cpo", "ORPO": "trl.experimental.orpo"}.get(kind, "trl")
    config, trainer = (getattr(importlib.import_module(module), f"{kind}{part}") for part in ("Config", "Trainer"))
    # TRL's NLL is a mean over the tokens of a micro-batch, ours over pairs: the same with one pair. Its KTO takes
    # answers by themselves, here all of them at once.
    own = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "max_steps": 2, "learning_rate": 1e-3}
    theirs_size = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1} if kind == "KTO" else {}
    our_size = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1} if kind == "KTO" else {}
    recorders = Recorder(), Recorder()
    theirs = trainer(
        copy.deepcopy(model),
        args=config(
            **settings(tmp_path / "trl", **own | theirs_size | their_changes),
            train_sampling_strategy="sequential", gradient_checkpointing=False,
        ),
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
        callbacks=[recorders[0]],
    )  # fmt: skip
    ours = MixDPOTrainer(
        model,
        args=MixDPOConfig(**settings(tmp_path / "ours", **own | our_size | our_changes), length_window=1),
        train_dataset=pairs,
        plan=make_plan(pairs, "dpo", order="as_is"),
        processing_class=tokenizer,
        callbacks=[recorders[1]],
    )
    their_losses, their_gradients = loss_and_gradients(theirs, recorders[0])
    our_losses, our_gradients = loss_and_gradients(ours, recorders[1])
    assert our_losses == pytest.approx(their_losses, rel=1e-4)
    assert_same_gradients(their_gradients, our_gradients)


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
