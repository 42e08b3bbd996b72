"""Making a plan for a data set, and advice on one.

MixDPO is the default plan; DPO, curriculum DPO, Selective DPO, SFT on the chosen answers and the reversed schedules
are other settings of the same function.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from mixdpo.common.errors import InputError
from mixdpo.common.settings import unknown_name
from mixdpo.plan.advice import Advice
from mixdpo.plan.check_settings import check_settings
from mixdpo.plan.labels import label_probabilities
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PLANS, PlanKeywords, PlanSettings
from mixdpo.plan.routing import agreement_of, order_and_routes
from mixdpo.plan.weights import pair_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mixdpo.data.pair_dataset import PairDataset


def make_plan(
    dataset: PairDataset,
    name: str | None = None,
    *,
    settings: PlanSettings | None = None,
    **changes: Unpack[PlanKeywords],
) -> Plan:
    """Make a plan for `dataset`.

    Args:
        dataset: pairs from `load_pairs`, with the column `margin/<metric>` that `score` adds. Settings that
            neither sort nor route by margin need none.
        name: a key of `PLANS` to start from (default `mixdpo`).
        settings: complete settings instead of a name.
        **changes: fields of `PlanSettings` changed on top, such as ``order="shuffled"``.

    Raises:
        InputError: unknown name or field, missing margins, a threshold outside the data, nothing left to train.

    Ties: equal margins are put in an order drawn from the seed, and `{hardest: f}` routes the round(f * N)
    last pairs of that very order (halves round up), `{easiest: f}` the first, `{outside: [low, high]}` the first
    `low` and the last `1 - high`; so pairs that share the margin at the boundary are split by the seed, and
    easy-to-hard order always ends with exactly the pairs routed as hardest. A margin threshold is strict: a pair is
    hard when its margin is under it, as in the paper. `auto` finds one (`plan/threshold.py`).
    """
    if settings is None:
        if (name or "mixdpo") not in PLANS:
            raise unknown_name("plan", str(name), PLANS)
        settings = PLANS[name or "mixdpo"]
    known = [f.name for f in fields(PlanSettings)]
    if unknown := set(changes) - set(known):
        raise InputError(f"plans have no setting {sorted(unknown)[0]!r}; settings are {', '.join(known)}")
    settings = replace(settings, **changes)
    check_settings(settings)
    plan = order_and_routes(dataset, settings)
    if settings.advised:
        from mixdpo.plan.advised import advised_plan  # with scipy, so only where it is needed

        plan = advised_plan(dataset, plan)
        settings = plan.settings
    curve = plan.curve
    if curve is None and settings.label_probability == "agreement":
        curve = agreement_of(dataset, settings, plan.margin)
    label_probability = label_probabilities(dataset, settings.label_probability, plan.margin, curve)
    weight = pair_weights(dataset, settings, plan.margin, label_probability)
    return replace(plan, curve=curve, label_probability=label_probability, weight=weight)


def advise(dataset: PairDataset, **changes: Unpack[PlanKeywords]) -> Advice:
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
