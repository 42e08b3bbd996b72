"""The plans of a run in stages: which pairs a stage trains, and what is decided anew between two.

With margins that stay, K stages are the K parts of the order that Curri-DPO and Staged-Competence train one after the
other (Kumar et al. 2026, arXiv 2605.26315, and its code). With margins of the policy each stage asks again which of
the pairs that were in no stage yet come first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.plan.epochs import rows_of_epoch
from mixdpo.plan.order import difficulty_quantile
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.plan.routing import order_and_routes


def first_stage(plan: Plan) -> Plan:
    """Return the plan of the first stage; behind a gate no hard pair is trained yet."""
    plan = replace(plan, stages_before=np.zeros(len(plan), dtype=np.int64))
    return plan if plan.settings.gate is None else plan.rerouted(plan.is_hard, "drop")


def moved_plan(dataset: Dataset, plan: Plan, margin: np.ndarray | None) -> Plan:
    """Return `plan` as its settings would make it of other margins; weights and label probabilities stay.

    Args:
        dataset: the pairs.
        plan: that of the start.
        margin: float64, shape (N,), of `stage_metric`; NaN where it cannot be known (such pairs are dropped). None:
            the margins stay.

    Raises:
        InputError: nothing is left to train.
    """
    if margin is None:
        return plan
    known = np.flatnonzero(~np.isnan(margin))
    settings = replace(plan.settings, metric=str(plan.settings.stage_metric))
    column = f"margin/{settings.metric}"
    others = [name for name in dataset.column_names if name not in ("prompt", "chosen", "rejected", column)]
    table = dataset.select_columns(others).with_format("arrow")[known]
    moved = order_and_routes(Dataset(table.append_column(column, pa.array(margin[known]))), settings)

    def of_all(values: np.ndarray, unknown: float) -> np.ndarray:
        whole = np.full(len(plan), unknown, dtype=values.dtype)
        whole[known] = values
        return whole

    position = np.empty(len(plan), dtype=np.int64)
    position[known] = moved.position
    position[np.isnan(margin)] = np.arange(len(known), len(plan))
    return replace(
        moved,
        margin=margin,
        quantile=of_all(moved.quantile, np.nan),
        bucket=of_all(moved.bucket, -1),
        route=of_all(moved.route, ROUTES.index("drop")),
        position=position,
        weight=plan.weight,
        label_probability=plan.label_probability,
        fingerprint=plan.fingerprint,
        origins=plan.origins,
    )


def next_stage(plan: Plan, before: Plan, pool: np.ndarray, has_risen: np.ndarray | None) -> Plan:
    """Return the plan of the next stage.

    Args:
        plan: from `moved_plan`.
        before: of the stage that ended.
        pool: int64, the rows that were in it.
        has_risen: bool, shape (N,): the gate's answer for each pair; None without a gate. A pair that was trained on
            `hard_route` stays there, for its own training says nothing about that on others.
    """
    stages_before = np.asarray(before.stages_before).copy()
    stages_before[pool] += 1
    plan = replace(plan, stages_before=stages_before)
    if has_risen is None:
        return plan
    stays = before.is_hard & (stages_before > 0)
    return plan.rerouted(plan.is_hard & ~has_risen & ~stays, plan.settings.gated_route)


def stage_pool(plan: Plan, pairs: int, present: np.ndarray) -> np.ndarray:
    """Return the pairs of a stage in the plan's order, those that were in fewest stages before; int64.

    Args:
        plan: of the stage.
        pairs: how many; fewer where fewer are kept.
        present: bool, shape (N,), which can be trained.

    Raises:
        InputError: none is kept.
    """
    rows = plan.kept_rows(present)
    if not len(rows):
        raise InputError("the plan of a stage drops every pair", hint="lower the threshold or change the routes")
    before = np.asarray(plan.stages_before)[rows]
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[np.argsort(before, kind="stable")[:pairs]] = True
    return rows[chosen]


def stage_rows(plan: Plan, pool: np.ndarray, draws: int) -> np.ndarray:
    """Return what a stage trains, in order; int64, shape (draws,).

    These are whole epochs over the pool and the beginning of another; with `pacing` one, with pairs drawn from an
    easiest share of the pool that grows over the stage.

    Args:
        plan: of the stage.
        pool: from `stage_pool`.
        draws: pairs of the stage, one that comes twice counted twice.
    """
    is_hard, settings = plan.is_hard[pool], plan.settings
    if settings.pacing is not None:
        return rows_of_epoch(pool, is_hard, settings, 0, 1, draws)
    epochs = -(-draws // len(pool))
    passes = [rows_of_epoch(pool, is_hard, settings, number, epochs, len(pool)) for number in range(epochs)]
    return np.concatenate(passes)[:draws]


def rank_correlation(plan: Plan, first: Plan) -> float | None:
    """Return Spearman's correlation of the margins of two plans; None where either has none or all are equal."""
    known = ~np.isnan(plan.margin) & ~np.isnan(first.margin)
    ranks = [difficulty_quantile(one.margin[known]) for one in (plan, first)]
    if known.sum() < 2 or any(np.ptp(values) == 0 for values in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
