"""Advice on a data set, and the routes of a plan that follow it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mixdpo.plan.advice import Advice
from mixdpo.plan.advice_measured import MeasuredParts, measured_parts
from mixdpo.plan.advice_parts import AdvisedRoute
from mixdpo.plan.advice_rule import advise_parts
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PlanSettings, Route
from mixdpo.plan.routing import order_and_routes
from mixdpo.plan.rule_table import shipped_rule

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

_ROUTES: Final[dict[AdvisedRoute, Route]] = {
    "preference": "preference",
    "drop": "drop",
    "smoothed": "preference",
    "sft": "sft",
    "sft_last": "sft",
}


def advice_on(dataset: Dataset, margin: np.ndarray, settings: PlanSettings) -> tuple[MeasuredParts, Advice]:
    """Return what was measured of pairs with margins (float64 of shape (N,), finite), and what the shipped rule says.

    Raises:
        InputError: as `measured_parts`.
    """
    measured = measured_parts(dataset, margin, settings)
    return measured, advise_parts(measured.parts, shipped_rule(), settings.least_effect, measured.label_source)


def advised_plan(dataset: Dataset, plan: Plan) -> Plan:
    """Return `plan` with the routes that are advised for its pairs.

    Smoothed labels are a setting of training, and their pairs stay on the preference route; the plan then says how
    sure its labels are. Where SFT is to come last, the plan is sorted from easy to hard.

    Raises:
        InputError: as `measured_parts`.
    """
    settings = plan.settings
    measured, advice = advice_on(dataset, plan.margin, settings)
    if "sft_last" in advice.routes:
        settings = replace(settings, order="easy_to_hard")
        plan = order_and_routes(dataset, settings)
    for number, one in enumerate(advice.parts):
        plan = plan.rerouted(measured.part_of == number, _ROUTES[one.route])
    if "smoothed" in advice.routes:
        settings = replace(settings, label_probability=measured.label_source)
    return replace(plan, settings=settings, advice=advice, curve=measured.curve)
