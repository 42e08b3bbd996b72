"""Training a policy of a world by the project's own plans, losses and step, many runs in one process.

What `MixDPOTrainer` does around a step (loaders, checkpoints, logs) takes longer than the step of so small a model.
This loop does without, and gives the same weights: `tests/study/world/test_flat_run.py` compares them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import LlamaForCausalLM

from mixdpo.common.errors import InputError
from mixdpo.losses import LOSSES
from mixdpo.models.engine import pad_rows
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.study.world.language import PAD, lengths
from mixdpo.study.world.map_settings import METRIC
from mixdpo.study.world.pairs import WorldPairs
from mixdpo.training.batch import PairBatch, collate_pairs
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.rate_weights import rate_weights
from mixdpo.training.reference import values_of_all
from mixdpo.training.sampling import PlannedPairs, PlanSampler
from mixdpo.training.schedule import learning_rate_factors, make_step_plan, phase_lengths
from mixdpo.training.stages import Stages, check_stages
from mixdpo.training.step import StepSettings, pair_losses, reduce_losses
from mixdpo.training.step_settings import step_settings

_LAY_OUT: Final = partial(pad_rows, pad_token_id=PAD)
PAIRS_AT_ONCE: Final = 256
"""Pairs whose log-probabilities are computed together; the trainer's `precompute_ref_batch_size`."""


@dataclass(frozen=True)
class FlatPairs:
    """Pairs as plans and as the trainer read them, with the log-probabilities of a base; N rows.

    Attributes:
        loaded: what a plan reads: margins, and probabilities that labels are right.
        tokens: what tokenisation leaves of them.
        rows: the same, row by row.
        reference: the base's log-probabilities of (chosen, rejected); float32, shape (N, 2), nats.
    """

    loaded: Dataset
    tokens: Dataset
    rows: Sequence[Mapping[str, Any]]
    reference: np.ndarray


class _HeldPairs(PlannedPairs):
    """Planned pairs whose tokens are in memory as lists; reading them from a data set takes a tenth of a run."""

    def __init__(self, data: FlatPairs, plan: Plan, **settings: Any) -> None:
        super().__init__(data.tokens, plan, **settings)
        self._rows = data.rows

    def _tokens_of(self, row: int) -> Mapping[str, Any]:
        return self._rows[row]


def flat_pairs(pairs: WorldPairs, base: LlamaForCausalLM) -> FlatPairs:
    """Return pairs of a world as a run reads them that starts from `base`."""
    names = [str(row) for row in range(len(pairs.margin))]
    chosen, rejected = _answers(pairs.chosen), _answers(pairs.rejected)
    tokens = Dataset.from_dict(
        {
            "row": np.arange(len(names)),
            "pair_id": names,
            "prompt_ids": pairs.prompts.tolist(),
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "chosen_mask": [[True] * len(ids) for ids in chosen],
            "rejected_mask": [[True] * len(ids) for ids in rejected],
        }
    )
    loaded = Dataset.from_dict(
        {
            "pair_id": names,
            "prompt": names,
            "chosen": ["chosen"] * len(names),
            "rejected": ["rejected"] * len(names),
            f"margin/{METRIC}": pairs.margin,
            "label_probability": pairs.label_right,
        }
    )
    as_is = make_plan(loaded, "dpo", order="as_is", metric=METRIC)
    reference = _logprobs(base, PlannedPairs(tokens, as_is, all_sides=True))
    return FlatPairs(loaded, tokens, tokens.to_list(), reference.astype(np.float32))


def train(base: LlamaForCausalLM, data: FlatPairs, plan: Plan, args: MixDPOConfig) -> LlamaForCausalLM:
    """Return the base trained by a plan; the base itself stays as it is.

    Args:
        base: the policy as it starts, and its reference.
        data: its pairs.
        plan: of `data.loaded`.
        args: of a run in float32, by one process that cuts no step into parts.

    Raises:
        InputError: a setting that this loop does not have, or that contradicts the plan.
    """
    _check(args, plan)
    policy = copy.deepcopy(base).train()
    weights = list(policy.parameters())
    optimizer = torch.optim.AdamW(
        weights, args.learning_rate, (args.adam_beta1, args.adam_beta2), args.adam_epsilon, weight_decay=0, fused=True
    )
    pairs = _HeldPairs(data, plan, sft_target=args.sft_target, **args.pair_needs())
    if plan.settings.weight == "rate":
        pairs.weigh(rate_weights(pairs, args))
    run = _staged(policy, pairs, data, args) if plan.settings.stages > 1 else _planned(pairs, data, args)
    for rate, progress, batch, settings in run:
        optimizer.param_groups[0]["lr"] = rate * args.learning_rate
        losses = pair_losses(policy, batch, settings, progress=progress).losses
        reduce_losses(losses, batch["weight"], batch["weight"].sum()).backward()
        nn.utils.clip_grad_norm_(weights, args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return policy.eval()


class _Step(NamedTuple):
    """An optimizer step: its learning rate as a share of the peak, what is done of the run, pairs and losses."""

    rate: float
    progress: float
    batch: PairBatch
    settings: StepSettings


def _planned(pairs: PlannedPairs, data: FlatPairs, args: MixDPOConfig) -> Iterator[_Step]:
    """Yield the steps of a plan that stays as it is."""
    pairs.reference = np.where(pairs.reads_reference[:, None], data.reference, np.nan)
    batch_size, settings = args.per_device_train_batch_size, step_settings(args, pairs.plan)
    steps = make_step_plan(pairs, batch_size, args.num_train_epochs, args.max_steps)
    epochs = math.ceil(len(steps) / math.ceil(pairs.trained_pairs / batch_size))
    rates = learning_rate_factors(args, phase_lengths(steps, args.phase_schedule, epochs))
    sampler, schedule = PlanSampler(pairs, epochs, batch_size, window=batch_size), _schedule(rates)
    item = cache(pairs.__getitem__)  # in later epochs the pairs are there already
    for epoch in range(epochs):
        for rows, now in zip(_cut(sampler, epoch), schedule, strict=False):
            yield _Step(*now, collate_pairs(list(map(item, rows)), _LAY_OUT), settings)


def _staged(policy: nn.Module, pairs: PlannedPairs, data: FlatPairs, args: MixDPOConfig) -> Iterator[_Step]:
    """Yield the steps of a plan that moves; each stage begins with what the policy has become by then."""
    start, batch_size = pairs.plan, args.per_device_train_batch_size
    stages = Stages(args, data.loaded, pairs)
    stages.every_pair.reference = data.reference
    total = args.max_steps if args.max_steps > 0 else stages.count * stages.steps
    sampler = PlanSampler(pairs, stages.count, batch_size, window=batch_size)
    schedule = _schedule(learning_rate_factors(args, [total]))
    for number in range(1, stages.count + 1):
        asks = number > 1 and stages.asks_policy
        stages.begin(number, _logprobs(policy, stages.every_pair) if asks else None)
        settings = step_settings(args, pairs.plan, start)
        for rows, now in zip(_cut(sampler, number - 1), schedule, strict=False):
            yield _Step(*now, collate_pairs([pairs[row] for row in rows], _LAY_OUT), settings)


def _cut(sampler: PlanSampler, epoch: int) -> list[list[int]]:
    """Return the rows of each step of an epoch."""
    rows: list[list[int]] = sampler.rows_of_epoch(epoch).reshape(-1, sampler.multiple).tolist()
    return rows


def _schedule(rates: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yield of every step of a run the learning rate as a share of the peak, and the share of steps before it."""
    return ((rate, step / len(rates)) for step, rate in enumerate(rates.tolist()))


def _logprobs(model: nn.Module, pairs: PlannedPairs) -> np.ndarray:
    """Return a model's log-probabilities of both answers of all pairs; float64, shape (N, 2), nats."""
    return values_of_all(model, pairs, lay_out=_LAY_OUT, device=torch.device("cpu"), batch_size=PAIRS_AT_ONCE)


def _answers(ids: np.ndarray) -> list[list[int]]:
    return [row[:count] for row, count in zip(ids.tolist(), lengths(ids).tolist(), strict=True)]


def _check(args: MixDPOConfig, plan: Plan) -> None:
    """Raise `InputError` for settings of a run that only the trainer has."""
    check_stages(args, plan)
    carries_state = [name for name in (*args.loss_names, *args.hard_loss_names) if LOSSES[name].statistic is not None]
    for name, wrong in (
        ("bf16", args.bf16 or args.fp16),
        ("gradient_accumulation_steps", args.gradient_accumulation_steps > 1),
        ("max_tokens_per_batch", args.max_tokens_per_batch is not None),
        ("weight_decay", args.weight_decay > 0),
        ("sync_ref_model", args.sync_ref_model),
        ("reward_calibration", args.reward_calibration),
        ("ld_alpha", args.ld_alpha is not None),
        ("loss_type kto", args.reads_mismatched),
        (f"loss_type {''.join(carries_state[:1])}", bool(carries_state)),
    ):
        if wrong:
            raise InputError(f"{name} is not there in the runs of a map", hint="leave it out, or use mixdpo train")
