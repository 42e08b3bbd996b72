"""What a person is told before the first step and after the last."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mixdpo.common.terminal import results_table
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.checks import sft_mass_warning
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.schedule import StepPlan, mass_by_route

logger = logging.getLogger(__name__)


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


def log_run_summary(pairs: PlannedPairs, steps: StepPlan, factors: np.ndarray, phase_schedule: str) -> None:
    """Print pairs, steps and learning-rate mass by route, and warn if SFT will hardly train."""
    records = route_summary(pairs, steps, factors)
    title = f"{len(steps):,} optimizer steps of {int(steps.pairs.max()):,} pairs (LR: learning rate)"
    table = results_table(title, "route", "pairs", "tokens", "steps", "from step", "LR there", "LR mass")
    for r in records:
        table.add_row(
            r["route"],
            f"{r['pairs']:,}",
            f"{r['tokens']:,}",
            f"{r['steps']:,.1f}",
            f"{r['first_step']:,}",
            f"{r['learning_rate_at_start']:.1%}",
            f"{r['learning_rate_mass']:.2%}",
        )
    Console(stderr=True).print(table)
    warning = sft_mass_warning(mass_by_route(steps, factors), phase_schedule)
    if warning:
        logger.warning(warning)


def final_table(first: dict[str, float], last: dict[str, float]) -> Table:
    """Return the short table that closes a run: first and last logged value of the main metrics."""
    table = results_table("training", "metric", "first", "last")
    names = (
        "loss",
        "loss/preference",
        "loss/sft",
        "rewards/accuracies",
        "rewards/margins",
        "displacement/chosen",
        "displacement/rejected",
    )
    for name in names:
        if name in first or name in last:
            table.add_row(name, *(f"{m[name]:.4g}" if name in m else "-" for m in (first, last)))
    return table
