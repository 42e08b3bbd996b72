"""What a plan means in optimizer steps: routes per step, learning rates, and the table of both before the first."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler

from mixdpo.common.errors import InputError
from mixdpo.common.tables import percent_text, plain_console, results_table
from mixdpo.plan.plan_settings import BUCKETS, ROUTES
from mixdpo.training.checks import sft_mass_warning
from mixdpo.training.sampling import PlannedPairs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run; S optimizer steps.

    Attributes:
        rows: of each step, the rows of its pairs in the loaded data; int64, shape (pairs,) each.
        route_share: float64, shape (S, len(ROUTES)), share of each step's pairs on each route.
        route_weight: the same with each pair counted by its weight.
        phases: lengths in steps of the stretches that mostly train one objective; they add up to S.
    """

    rows: list[np.ndarray]
    route_share: np.ndarray
    route_weight: np.ndarray
    phases: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pairs(self) -> np.ndarray:
        """int64, shape (S,), pairs per step."""
        return np.array([len(rows) for rows in self.rows])


def make_step_plan(pairs: PlannedPairs, batch_size: int, epochs: float, max_steps: int = -1) -> StepPlan:
    """Return the steps of a run with `batch_size` pairs per optimizer step (over all processes).

    A `max_steps` above 0 overrides `epochs`, as in transformers. Every epoch ends with a step of its own, which may be
    smaller.
    """
    steps_per_epoch = max(math.ceil(pairs.trained_pairs / batch_size), 1)
    steps = max_steps if max_steps > 0 else math.ceil(epochs * steps_per_epoch)
    rounds = math.ceil(steps / steps_per_epoch)
    order = [pairs.epoch_rows(epoch, rounds) for epoch in range(rounds)]
    rows = [epoch[start : start + batch_size] for epoch in order for start in range(0, len(epoch), batch_size)][:steps]
    route_share = _by_route(pairs, rows, np.ones(len(pairs.plan)))
    is_sft = route_share[:, ROUTES.index("sft")] >= 0.5
    changes = np.flatnonzero(np.diff(is_sft)) + 1
    phases = np.diff([0, *changes.tolist(), len(rows)]).tolist()
    return StepPlan(
        rows=rows, route_share=route_share, route_weight=_by_route(pairs, rows, pairs.weight), phases=phases
    )


def _by_route(pairs: PlannedPairs, rows: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    routes = pairs.plan.route
    return np.stack([np.bincount(routes[r], weight[r], minlength=len(ROUTES)) / len(r) for r in rows])


def learning_rate_factors(args: TrainingArguments, phases: list[int]) -> np.ndarray:
    """Return the learning rate of every step over the peak; float64, shape (sum(phases),).

    Each phase gets the whole schedule of `args` (warm-up, then decay), by transformers' own scheduler. Schedulers
    that react to evaluations count as constant.
    """
    if args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
        return np.ones(sum(phases))  # decided by evaluations to come; taken as constant
    factors: list[float] = []
    for steps in phases:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=min(args.get_warmup_steps(steps), steps - 1),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else {},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "scheduler.step() before optimizer.step()": nothing is trained here
            for _ in range(steps):
                factors.append(float(optimizer.param_groups[0]["lr"]))
                scheduler.step()
    return np.array(factors)


def phase_lengths(step_plan: StepPlan, phase_schedule: str, epochs: int) -> list[int]:
    """Return the phases that get a schedule of their own under `phase_schedule`.

    Raises:
        InputError: `rewarmed` with a plan whose routes alternate instead of forming stretches.
    """
    if phase_schedule == "shared":
        return [len(step_plan)]
    if len(step_plan.phases) > 2 * epochs:
        changes = len(step_plan.phases) - 1
        raise InputError(
            f"phase_schedule rewarmed needs routes in stretches, but this plan changes them {changes} times",
            hint="use order easy_to_hard, set plan.first, or keep phase_schedule shared",
        )
    return step_plan.phases


def mass_by_route(step_plan: StepPlan, factors: np.ndarray) -> dict[str, float]:
    """Return the share of the learning-rate integral that falls to each route of the plan, pairs by their weight."""
    mass = factors @ step_plan.route_weight
    total = mass.sum() or 1.0
    present = np.flatnonzero(step_plan.route_share.sum(axis=0))
    return {ROUTES[i]: float(mass[i] / total) for i in present.tolist()}


def route_summary(pairs: PlannedPairs, steps: StepPlan, factors: np.ndarray) -> list[dict[str, Any]]:
    """Return one record per trained route.

    Each has `pairs` (per epoch), `tokens` (computed per epoch, prompt counted with each completion), `steps`
    (optimizer steps, those of mixed batches by share), `first_step` (counted from 1), `learning_rate_at_start`
    (share of the peak) and `learning_rate_mass` (share of the whole learning-rate integral).
    """
    mass = mass_by_route(steps, factors)
    rows = pairs.epoch_rows(0, 1)
    tokens = pairs.tokens_per_row()
    records = []
    for code, route in enumerate(ROUTES):
        if route not in mass:
            continue
        on_route = rows[pairs.plan.route[rows] == code]
        first = int(np.flatnonzero(steps.route_share[:, code])[0])
        records.append(
            {
                "route": route,
                "pairs": len(on_route),
                "tokens": int(tokens[on_route].sum()),
                "steps": float(steps.route_share[:, code].sum()),
                "first_step": first + 1,
                "learning_rate_at_start": float(factors[first]),
                "learning_rate_mass": mass[route],
            }
        )
    return records


def log_run_summary(
    pairs: PlannedPairs, steps: StepPlan, factors: np.ndarray, phase_schedule: str, stage: str = "", done: int = 0
) -> None:
    """Print pairs, steps and learning-rate mass by route, and weights; warn if SFT will hardly train.

    Of a run in stages these are the steps of one, `stage`, before which so many are `done`.
    """
    records = route_summary(pairs, steps, factors)
    title = f"{stage}{len(steps):,} optimizer steps of {int(steps.pairs.max()):,} pairs (LR: learning rate)"
    table = results_table(title, "route", "pairs", "tokens", "steps", "from step", "LR there", "LR mass")
    for r in records:
        table.add_row(
            r["route"],
            f"{r['pairs']:,}",
            f"{r['tokens']:,}",
            f"{r['steps']:,.1f}",
            f"{done + r['first_step']:,}",
            percent_text(r["learning_rate_at_start"]),
            percent_text(r["learning_rate_mass"], 2),
        )
    console = plain_console(stderr=True)
    console.print(table)
    if pairs.plan.weight is not None:
        console.print(weights_line(pairs))
    warning = sft_mass_warning(mass_by_route(steps, factors), phase_schedule)
    if warning:
        logger.warning(warning)


def weights_line(pairs: PlannedPairs) -> str:
    """Say how much the trained pairs of a plan with weights count: all, and by bucket where there are buckets.

    Effective pairs are the number of equal weights whose mean would be as sure: (sum w)^2 / sum w^2 (Kish 1965).
    """
    rows = np.unique(pairs.epoch_rows(0, 1))
    weight, bucket = pairs.weight[rows], pairs.plan.bucket[rows]
    means = [
        f"{name} {weight[bucket == code].mean():.3g}" for code, name in enumerate(BUCKETS) if (bucket == code).any()
    ]
    of_buckets = f" ({', '.join(means)})" if means else ""
    effective = weight.sum() ** 2 / (weight**2).sum() if weight.any() else 0.0
    return (
        f"pair weights ({pairs.plan.settings.weight}): mean {weight.mean():.3g}{of_buckets}, "
        f"from {weight.min():.3g} to {weight.max():.3g}, {np.sum(weight == 0):,} of them 0; "
        f"sum {weight.sum():,.4g} over {len(weight):,} pairs, effective pairs {effective:,.1f}"
    )
