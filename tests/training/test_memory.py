"""What is said and chosen of a device's memory before the first step, against what is then taken."""

from __future__ import annotations

import copy
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Adafactor

from live_bytes import LiveBytes
from mixdpo import MixDPOConfig
from mixdpo.common.errors import InputError, RunError
from mixdpo.models.engine import completion_scores, pack_rows, pad_rows, prepare_packing
from mixdpo.models.engine.lm_head import head_bytes
from mixdpo.training import memory_plan, memory_trial
from mixdpo.training.memory import (
    DeviceMemory,
    Line,
    StepMemory,
    gradient_bytes,
    held_bytes,
    most_that_fits,
    optimizer_bytes,
    state_bytes,
)
from mixdpo.training.memory_trial import measure_step, trial_groups
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import config, trainer_for


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch_fused", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("adagrad", torch.optim.Adagrad),
        ("sgd", lambda weights: torch.optim.SGD(weights, lr=0.1)),
        ("adafactor", lambda weights: Adafactor(weights, lr=0.1, relative_step=False)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimizer_state_is_what_the_optimizer_keeps(name, make, dtype) -> None:
    model = tiny_llama().to(dtype)
    model.model.embed_tokens.weight.requires_grad = False
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    model(torch.ones(1, 3, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    counts = 4 * sum(p.requires_grad for p in model.parameters())  # of steps done, one number each
    assert abs(optimizer_bytes(model, name) - state_bytes(optimizer)) <= counts
    assert gradient_bytes(model) == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert held_bytes(model) >= sum(p.nbytes for p in model.parameters())


def test_optimizers_that_are_not_known_are_named() -> None:
    model = tiny_llama()
    assert optimizer_bytes(model, "galore_adamw") is None
    assert optimizer_bytes(model, "paged_adamw_8bit") == 0
    eight, whole = optimizer_bytes(model, "adamw_8bit"), optimizer_bytes(model, "adamw_torch")
    assert 0 < eight <= whole  # all its weights are too small for 8 bits
    device = DeviceMemory("cuda:0", 10 << 30, 0, 0, None, 1 << 30, 2 << 30, 24 << 30)
    assert "13.00 and optimizer (not known) of 24.00 GiB" in device.describe()


class LiveMeter:
    """What the allocator is on a GPU."""

    def __init__(self, counter: LiveBytes) -> None:
        self.counter = counter

    def alive(self) -> int:
        return self.counter.alive

    def restart(self) -> None:
        self.counter.reset_peak()

    def most(self) -> int:
        return self.counter.peak


def wide_llama(adapters: bool) -> nn.Module:
    model = tiny_llama(vocab_size=512, positions=512)
    config = copy.deepcopy(model.config)
    config.update({"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 16})
    model = type(model)(config)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")) if adapters else model


@pytest.mark.parametrize(
    ("engine", "adapters", "checkpointing", "several"),
    [
        ("packed", False, False, False),
        ("packed", False, True, True),
        ("packed", True, True, False),
        ("padded", False, False, True),
    ],
)
def test_small_steps_tell_what_a_large_one_takes(
    engine, adapters, checkpointing, several, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_trial, "_GROUP_TOKENS", 64)  # short, for dense attention grows with their square
    model = wide_llama(adapters).train()
    padded = engine == "padded"
    if not padded:
        model.set_attn_implementation("mixdpo_packed")
        assert prepare_packing(model, on_gpu=False) is None
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def forward(number: int, all_scored: bool = padded) -> tuple[torch.Tensor, int]:
        groups = trial_groups(number, 0.25, all_scored)
        rows = pad_rows(groups, 0) if padded else pack_rows(groups)
        return completion_scores(model, rows).logprob.sum(), rows["input_ids"].numel()

    def forget() -> None:
        model.zero_grad(set_to_none=True)

    cpu = torch.device("cpu")
    head = model.get_output_embeddings()
    with LiveBytes() as counter:
        meter = LiveMeter(counter)
        step = measure_step(forward, forget, meter, lambda n: 0 if padded else head_bytes(head, n, cpu, torch.float32))
        if several:
            forward(1)[0].backward()
        begin = meter.alive() - (step.gradients if several else 0)
        meter.restart()
        loss, tokens = forward(7, all_scored=True)
        loss.backward()
        taken = meter.most() - begin
    assert step.gradients == pytest.approx(gradient_bytes(model), rel=0.01)
    # Of layers as narrow as these, what does not grow with tokens is a larger part than of real ones.
    assert step.at(tokens, 0.75 if not padded else 1.0, several) == pytest.approx(taken, rel=0.15)


def test_the_most_that_fits() -> None:
    assert most_that_fits(lambda tokens: tokens <= 777, 100, 5000) == 777
    assert most_that_fits(lambda tokens: True, 100, 5000) == 5000
    assert most_that_fits(lambda tokens: False, 100, 5000) is None


GIB = 2**30


class FakeRun:
    """A run on a GPU of which everything is made up: a token takes 1 MiB, with checkpointing a quarter of it."""

    def __init__(self, trainer, gib: float, *, chooses: bool = True, measures: bool = True) -> None:
        self.args, self.accelerator, self.model = trainer.args, trainer.accelerator, trainer.model
        trainer.get_train_dataloader()
        self.sampler, self.gib = trainer._sampler, gib
        self.chooses_checkpointing, self.measures = chooses, measures
        self.per_token = 2**20

    def try_steps(self, load):
        line = Line(0, self.per_token if not self.model.is_gradient_checkpointing else self.per_token / 4)
        return StepMemory(kept=line, first=line, later=line, gradients=0, head=lambda scored: 0)

    def device_memory(self, step, tokens, scored, several):
        taken = None if step is None else round(step.at(tokens, scored, several))
        return DeviceMemory("cuda:0", 0, 0, 0, 0, 0, taken, round(self.gib * GIB))


@pytest.mark.parametrize(
    ("share", "tokens", "chosen"),
    [  # memory as a share of what the largest batch takes without checkpointing
        (2.0, None, (False, None)),
        (0.6, None, (True, None)),  # batches of four are not cut unless asked
        (0.1, None, (True, None)),
        (2.0, "auto", (False, None)),
        (0.6, "auto", (False, "cut")),  # a pair fits, so nothing is computed twice
        (0.2, "auto", (True, "cut")),
    ],
)
def test_what_is_chosen(share, tokens, chosen, tokenizer, tmp_path, caplog) -> None:
    model = tiny_llama(vocab_size=len(tokenizer))
    pairs = chat_pairs(tmp_path, n=12)
    trainer = trainer_for(model, tokenizer, pairs, tmp_path / "run", max_tokens_per_batch=tokens)
    run = FakeRun(trainer, 1.0)
    load = memory_plan.load_of(run.sampler)
    assert load.pair < load.batch <= 4 * load.pair
    run.gib = share * load.batch * 2**20 / GIB
    with caplog.at_level(logging.INFO):
        plan = memory_plan.plan_memory(run)
    assert (plan.activation_checkpointing, "cut" if plan.max_tokens else None) == chosen
    assert model.is_gradient_checkpointing == chosen[0]
    assert run.sampler.budget.tokens == plan.max_tokens
    assert plan.longest == plan.max_tokens or plan.longest == load.batch
    assert plan.devices[0].fits == (share > 0.1)
    assert ("set train.max_tokens_per_batch to auto" in caplog.text) == (share == 0.1)


def test_a_pair_that_does_not_fit_is_one_line_that_says_what_would(tokenizer, tmp_path, caplog) -> None:
    trainer = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, chat_pairs(tmp_path, n=8), tmp_path / "run",
        max_tokens_per_batch="auto",
    )  # fmt: skip
    plan = memory_plan.plan_memory(FakeRun(trainer, 0.001, chooses=False))
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert plan.longest == plan.max_tokens
    assert "set train.activation_checkpointing to true" in line
    assert "train LoRA adapters" in line


@pytest.mark.parametrize("sharded", [False, True])
def test_a_process_without_memory_for_the_trial_ends_a_sharded_run(sharded, tokenizer, tmp_path, caplog) -> None:
    trainer = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, chat_pairs(tmp_path, n=8), tmp_path / "run"
    )
    run = FakeRun(trainer, 1.0)
    run.try_steps = lambda load: None
    if not sharded:  # all learn of it together, and switch checkpointing on
        assert memory_plan.plan_memory(run).activation_checkpointing
        return
    run.accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)  # others wait for weights of its own
    with pytest.raises(RunError, match=r"no memory .* set train.activation_checkpointing to true"):
        memory_plan.plan_memory(run)


def test_a_run_on_a_cpu_says_what_it_needs_and_changes_nothing(tokenizer, tmp_path, caplog) -> None:
    model = tiny_llama(vocab_size=len(tokenizer))
    weights, folder = held_bytes(model), tmp_path / "run"
    trainer = trainer_for(
        model,
        tokenizer,
        chat_pairs(tmp_path, n=8),
        folder,
        max_tokens_per_batch="auto",
        activation_checkpointing="auto",
    )
    with caplog.at_level(logging.INFO):
        trainer.train()
    record = json.loads((folder / "run.json").read_text())["memory"]
    (device,) = record["devices"]
    assert device["weights"] == round(weights / GIB, 3)
    assert device["activations"] is None
    assert record["activation_checkpointing"] is False
    assert record["max_tokens_per_batch"] is None
    assert "activations (not known)" in caplog.text
    assert "here batches are not cut" in caplog.text


def test_both_names_of_checkpointing(tmp_path) -> None:
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        for value in (True, False, "auto", None):
            args = config(tmp_path, **{name: value})
            assert args.activation_checkpointing is args.gradient_checkpointing is (value is True)
            assert args.chooses_checkpointing == (value == "auto")
            assert args.to_record()["activation_checkpointing"] == value
    assert config(tmp_path, activation_checkpointing=False, gradient_checkpointing=True).chooses_checkpointing is False
    on_gpu = SimpleNamespace(_checkpointing=None, device=torch.device("cuda"))
    assert MixDPOConfig.chooses_checkpointing.fget(on_gpu)
    with pytest.raises(InputError, match="it is true, false, auto or null"):
        config(tmp_path, activation_checkpointing="always")
    with pytest.raises(InputError, match="a number, auto or null"):
        config(tmp_path, max_tokens_per_batch="many")
