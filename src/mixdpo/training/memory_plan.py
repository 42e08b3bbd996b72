"""Before the first step: what a run needs of its devices, and what is chosen so that it fits.

On a GPU the step's part is measured; see `memory_trial`. Without activation checkpointing a step computes a quarter
less, and a micro-batch of one long pair keeps a GPU busy: so checkpointing is for runs where that does not fit, and
more tokens in a micro-batch come second.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from transformers.training_args import OptimizerNames

from mixdpo.common.errors import RunError
from mixdpo.models.engine import causal_model, completion_scores, to_device
from mixdpo.models.engine.lm_head import head_bytes
from mixdpo.models.engine.score_norms import norm_bytes
from mixdpo.training.batch import RowLayout
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.gradient_sync import shards_weights
from mixdpo.training.memory import (
    USABLE,
    DeviceMemory,
    StepMemory,
    gradient_bytes,
    held_bytes,
    most_that_fits,
    optimizer_bytes,
    state_bytes,
)
from mixdpo.training.memory_trial import AllocatorMeter, measure_step, trial_groups
from mixdpo.training.sampling import PlanSampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """What a run computes at a time.

    Attributes:
        batch: tokens of its largest device's batch.
        pair: tokens of its largest pair.
        prompt_share: share of prompts in that batch, each counted once; on padded rows of what stands before logits.
        scored: share of its computed tokens that are of completions.
    """

    batch: int
    pair: int
    prompt_share: float
    scored: float


@dataclass(frozen=True)
class MemoryPlan:
    """What was found and chosen.

    Attributes:
        devices: one per process.
        activation_checkpointing: whether it is on.
        max_tokens: the budget of a micro-batch, None without.
        longest: tokens of the largest micro-batch.
    """

    devices: list[DeviceMemory]
    activation_checkpointing: bool
    max_tokens: int | None
    longest: int

    def to_record(self) -> dict[str, Any]:
        """Return it for `run.json`."""
        return {
            "devices": [device.to_record() for device in self.devices],
            "activation_checkpointing": self.activation_checkpointing,
            "max_tokens_per_batch": self.max_tokens,
            "longest_micro_batch": self.longest,
        }


def load_of(sampler: PlanSampler) -> Load:
    """Return what a run computes at a time, over all its epochs."""
    prompt, chosen, rejected = sampler.pairs.computed_tokens()
    tokens, sequences, longest = sampler.pairs.size_per_row().T
    padded, there = sampler.budget.padded, tokens > 0

    def computed(rows: np.ndarray) -> np.ndarray:
        return sequences[rows].sum(-1) * longest[rows].max(-1) if padded else tokens[rows].sum(-1)

    load = Load(0, int(computed(np.flatnonzero(there)[:, None]).max()), 0.0, 0.0)
    for epoch in range(sampler.epochs):
        rows = sampler.rows_of_epoch(epoch)
        batches = np.where(rows < 0, ~rows, rows).reshape(-1, sampler.batch)
        of_batch = computed(batches)
        batch, most = batches[of_batch.argmax()], int(of_batch.max())
        if most <= load.batch:
            continue
        share = prompt[batch].sum() / tokens[batch].sum()
        if padded:  # logits are computed from the end of the shortest prompt on
            of_row = prompt[batch].min() / longest[batch].max()
            share = of_row / (2 - of_row)
        load = replace(
            load, batch=most, prompt_share=float(share), scored=float((chosen + rejected)[batch].sum() / most)
        )
    return load


@dataclass(frozen=True)
class Run:
    """The parts of a trainer that decide what it needs.

    Attributes:
        args: its settings.
        accelerator: its processes and number formats.
        model: the policy as it is trained, with its wrappers.
        reference: a reference with weights of its own.
        optimizer: of the run.
        sampler: of its pairs.
        lay_out: of micro-batches.
    """

    args: MixDPOConfig
    accelerator: Accelerator
    model: nn.Module
    reference: nn.Module | None
    optimizer: torch.optim.Optimizer
    sampler: PlanSampler
    lay_out: RowLayout

    @property
    def measures(self) -> bool:
        """Whether steps can be tried: on a GPU, and not by DeepSpeed, which would count them."""
        return self.args.device.type == "cuda" and self.accelerator.distributed_type != DistributedType.DEEPSPEED

    @property
    def chooses_checkpointing(self) -> bool:
        """Whether nobody else has decided on activation checkpointing, and the model has it."""
        plugin = (
            self.accelerator.state.fsdp_plugin if self.accelerator.distributed_type == DistributedType.FSDP else None
        )
        if not self.args.chooses_checkpointing or (plugin is not None and plugin.activation_checkpointing):
            return False
        return bool(causal_model(self.model).supports_gradient_checkpointing) and self.args.device.type == "cuda"

    def try_steps(self, load: Load) -> StepMemory | None:
        """Return what a step takes, None where not even a small one fits."""
        padded = self.sampler.budget.padded
        self.model.train()

        def forward(number: int) -> tuple[Tensor, int]:
            rows = to_device(self.lay_out(trial_groups(number, load.prompt_share, padded)), self.args.device)
            scores = completion_scores(self.model, rows, score_norms=self.args.reward_calibration)
            return scores.logprob.sum(), rows["input_ids"].numel()

        def of_head(scored: int) -> int:
            if padded:
                return 0  # its logits are on the line
            head = causal_model(self.model).get_output_embeddings()
            formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
            dtype = formats.get(self.accelerator.mixed_precision, head.weight.dtype)
            taken = head_bytes(head, scored, self.args.device, dtype)
            norms = norm_bytes(len(head.weight), scored, dtype) if self.args.reward_calibration else 0
            return max(taken, norms)  # the norms are done before the backward pass

        whole = not shards_weights(self.accelerator)  # see `more_to_come`
        with self.accelerator.no_sync(self.model) if whole else nullcontext():
            return measure_step(
                forward, lambda: self.model.zero_grad(set_to_none=True), AllocatorMeter(self.args.device), of_head
            )

    def device_memory(self, step: StepMemory | None, tokens: int, scored: float, several: bool) -> DeviceMemory:
        """Return what this process needs for micro-batches of so many tokens; see `StepMemory.at`."""
        weights, reference = held_bytes(self.model), held_bytes(self.reference) if self.reference is not None else 0
        own, gradients = state_bytes(self.optimizer), gradient_bytes(self.model)
        optimizer = optimizer_bytes(self.model, OptimizerNames(self.args.optim).value) if own == 0 else own
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            optimizer = 0  # its engine has made it already
        if self.args.device.type == "cuda":
            meter = AllocatorMeter(self.args.device)
            other, available = max(meter.alive() - weights - reference - own, 0), meter.available()
        else:
            other, available = 0, psutil.virtual_memory().available + weights + reference + own
        if step is not None:
            gradients = step.gradients
        return DeviceMemory(
            device=str(self.args.device),
            weights=weights,
            reference=reference,
            other=other,
            optimizer=optimizer,
            gradients=gradients,
            activations=round(step.at(tokens, scored, several)) - gradients if step is not None else None,
            available=available,
        )


def plan_memory(run: Run) -> MemoryPlan:
    """Measure, choose what is to be chosen, put it into effect and say so. To be called by all processes together.

    Raises:
        RunError: this process has no memory for the smallest step, and weights are sharded, so that the others wait.
    """
    args, budget, load = run.args, run.sampler.budget, load_of(run.sampler)
    chooses_tokens = args.max_tokens_per_batch == "auto"
    wanted = load.batch if budget.tokens is None else min(load.batch, max(budget.tokens, load.pair))
    least = load.pair if chooses_tokens else wanted

    def several(tokens: int) -> bool:
        return args.gradient_accumulation_steps > 1 or tokens < load.batch

    def memory(step: StepMemory | None, tokens: int) -> DeviceMemory:
        return run.device_memory(step, tokens, load.scored, several(tokens))

    def tried(checkpointing: bool) -> tuple[StepMemory | None, int | None]:
        """What a step takes here, and tokens of a micro-batch that fit everywhere."""
        step = run.try_steps(load)
        if step is None and shards_weights(run.accelerator):
            # The others wait inside a step for this process's part of the weights. That a launcher ends them is all
            # that reaches them there.
            raise RunError(
                f"{args.device} has no memory for a forward and backward pass over two short pairs: "
                f"{_what_would_fit(run, checkpointing)}"
            )
        own = most_that_fits(lambda tokens: memory(step, tokens).fits, least, wanted) if step is not None else None
        of_all = gather_object([own])
        return step, None if None in of_all else min(of_all)

    checkpointing = bool(args.activation_checkpointing)
    step: StepMemory | None = None
    fitting: int | None = None
    if run.measures:
        step, fitting = tried(checkpointing)
    if fitting is None and run.chooses_checkpointing:
        _switch_on_checkpointing(run.model)
        checkpointing = True
        if run.measures:
            step, fitting = tried(checkpointing)
    if chooses_tokens and run.measures:
        longest = least if fitting is None else fitting
        budget.tokens = longest if longest < load.batch else None
    else:
        longest = wanted
    plan = MemoryPlan(gather_object([memory(step, longest)]), checkpointing, budget.tokens, longest)
    if run.accelerator.is_main_process:
        _report(run, plan, load, fits=fitting is not None)
    return plan


def _switch_on_checkpointing(model: nn.Module) -> None:
    inner = causal_model(model)
    if hasattr(inner, "activation_checkpointing_enable"):  # its name since transformers 5.24
        inner.activation_checkpointing_enable()
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _report(run: Run, plan: MemoryPlan, load: Load, fits: bool) -> None:
    logger.info("memory for micro-batches of up to %s tokens: %s", f"{plan.longest:,}", plan.devices[0].describe())
    for device in plan.devices[1:]:
        logger.info("and %s", device.describe())
    if plan.activation_checkpointing and not run.args.activation_checkpointing:
        reason = "without it they do not fit" if run.measures else "what they take is not measured under DeepSpeed"
        logger.info("activation checkpointing is on: %s", reason)
    if run.args.max_tokens_per_batch == "auto":
        if not run.measures:
            logger.warning("max_tokens_per_batch auto measures a GPU's memory; here batches are not cut")
        elif plan.max_tokens is not None:
            logger.info("max_tokens_per_batch is %d; the largest batch has %d tokens", plan.max_tokens, load.batch)
    if run.measures and not fits:
        logger.warning(
            "micro-batches of %s tokens need more than %.0f %% of the memory, which is what can be planned with: %s",
            f"{plan.longest:,}",
            100 * USABLE,
            _what_would_fit(run, plan.activation_checkpointing, can_cut=plan.longest > load.pair),
        )


def _what_would_fit(run: Run, checkpointing: bool, can_cut: bool = False) -> str:
    model = causal_model(run.model)
    ways = []
    if can_cut:
        ways.append("set train.max_tokens_per_batch to auto")
    if not checkpointing:
        ways.append("set train.activation_checkpointing to true")
    if not hasattr(run.model, "peft_config") and all(p.requires_grad for p in model.parameters()):
        ways.append("train LoRA adapters (section peft)")
    elif not getattr(model, "is_loaded_in_4bit", False):
        ways.append("set model.load_in_4bit to true")
    return ", ".join([*ways, "lower train.max_length"])
