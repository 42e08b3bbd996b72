"""Which route every pair takes and in which order: a plan by its settings, without weights and label probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import data_fingerprint, float_column, origins, place_of
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.hard_pairs import hard_pairs
from mixdpo.plan.order import difficulty_quantile, easy_rank, positions
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES, PlanSettings, Threshold

if TYPE_CHECKING:
    from datasets import Dataset


def order_and_routes(dataset: Dataset, settings: PlanSettings) -> Plan:
    """Return a plan without weights and label probabilities.

    Raises:
        InputError: as `make_plan`, of settings that are checked.
    """
    n = len(dataset)
    if n == 0:
        raise InputError("the data set has no pairs")
    margin = _margins(dataset, settings)
    threshold, curve = settings.threshold, None
    if threshold == "auto":
        curve = agreement_of(dataset, settings, margin)
        threshold = curve.threshold
    is_hard = hard_pairs(dataset, margin, easy_rank(margin, settings.seed), threshold)
    route = np.where(is_hard, ROUTES.index(settings.hard_route), ROUTES.index(settings.easy_route)).astype(np.int8)
    dropped = route == ROUTES.index("drop")
    if dropped.all():
        raise InputError("the plan drops every pair", hint="lower the threshold or change the routes")
    if settings.epochs == "staged" and len(np.unique(route[~dropped])) < 2:
        raise InputError("staged epochs need pairs of two routes, and this plan trains only one")

    quantile = difficulty_quantile(margin)
    bucket = np.where(np.isnan(quantile), -1, np.minimum((np.nan_to_num(quantile) * 3).astype(int), 2))
    return Plan(
        margin=margin,
        quantile=quantile,
        bucket=bucket.astype(np.int8),
        route=route,
        position=positions(settings, margin, is_hard, dropped),
        settings=settings,
        fingerprint=data_fingerprint(dataset),
        threshold_margin=_largest_hard_margin(margin, is_hard, threshold),
        curve=curve,
        origins=origins(dataset),
    )


def agreement_of(dataset: Dataset, settings: PlanSettings, margin: np.ndarray) -> AgreementCurve:
    """Return how often other metrics agree with the labels by margin, float64 of shape (N,), and a threshold."""
    from mixdpo.plan.threshold import auto_threshold, find_signals  # with scipy, so only where it is needed

    return auto_threshold(margin, find_signals(dataset, settings.metric, settings.signals), settings)


def _largest_hard_margin(margin: np.ndarray, is_hard: np.ndarray, threshold: Threshold) -> float | None:
    is_under_one = not isinstance(threshold, Mapping) or "hardest" in threshold
    return float(margin[is_hard].max()) if is_under_one and is_hard.any() else None


def _margins(dataset: Dataset, settings: PlanSettings) -> np.ndarray:
    """Return margins, float64 of shape (N,); NaN where neither the data has them nor the settings need them."""
    column = f"margin/{settings.metric}"
    if column in dataset.column_names:
        margin = float_column(dataset, column)
        bad = np.flatnonzero(~np.isfinite(margin))
        if len(bad):
            raise InputError("the margin is not a finite number", **place_of(dataset, int(bad[0])), column=column)
    elif not settings.needs_margins:
        margin = np.full(len(dataset), np.nan)
    else:
        unscored = settings.metric == "rating" and not {"score_chosen", "margin"} & set(dataset.column_names)
        raise InputError(
            f"this plan needs the column {column!r}, which the data does not have"
            + (", nor scores to make it of" if unscored else ""),
            hint='train all pairs alike with `make_plan(dataset, "dpo")`; or let a model compute margins with '
            '`dataset = mixdpo.score(dataset, "nll_gap", model=MODEL)`, and give make_plan metric="nll_gap"'
            if unscored
            else f"add it with `mixdpo.score(dataset, metric={settings.metric!r})`",
        )
    return margin
