"""Advice on a data set, and the plan that follows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mixdpo.plan.advice import Advice, AdvisedRoute
from mixdpo.plan.advice_measured import MeasuredParts, measured_parts
from mixdpo.plan.advice_rule import advise_parts
from mixdpo.plan.plan import Plan, make_plan, order_and_routes
from mixdpo.plan.plan_settings import PlanSettings, Route
from mixdpo.plan.rule_table import shipped_rule
from mixdpo.plan.stages import rerouted

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from mixdpo.data.pair_dataset import PairDataset

_ROUTES: Final[dict[AdvisedRoute, Route]] = {
    "preference": "preference",
    "drop": "drop",
    "smoothed": "preference",
    "sft": "sft",
    "sft_last": "sft",
}


def advise(dataset: PairDataset, **changes: Any) -> Advice:
    """Say what to do with pairs by their margin, and how much it will matter.

    Args:
        dataset: pairs from `load_pairs` with margins. How often labels are right comes from a column
            `label_probability`, else from other margins that judge them; how good chosen answers are, from columns
            `quality/start/chosen` and `quality/trained/chosen`. What there is not is not known, and the advice says
            what it would change.
        **changes: fields of `PlanSettings`, such as ``metric="nll_gap"`` or ``trained_policy="dpo"``.

    Raises:
        InputError: as `make_plan`, or margins whose size does not say which pairs are hard.
    """
    advice = make_plan(dataset, "advised", **changes).advice
    assert advice is not None
    return advice


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
        plan = rerouted(plan, measured.part_of == number, _ROUTES[one.route])
    if "smoothed" in advice.routes:
        settings = replace(settings, label_probability=measured.label_source)
    return replace(plan, settings=settings, advice=advice, curve=measured.curve)
