"""What the losses of a run read of its plan: the settings of the step, and what a plan has to have for them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.tables import percent_text
from mixdpo.losses import LOSSES, TIE_NU, LossSettings, needs
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.step import StepSettings


def step_settings(args: MixDPOConfig, plan: Plan, start: Plan | None = None) -> StepSettings:
    """Return the part that the training step reads.

    Args:
        args: settings of the run.
        plan: that is trained next.
        start: that the run began with, where `plan` is of a later stage. `tie_nu` is estimated from it: how readily
            answers tie is of the data, so a gate that lets some ties through does not change it.

    Raises:
        InputError: a loss reads margins, a threshold or label probabilities that the plan does not have.
    """
    settings = LossSettings(**{f.name: getattr(args, f.name) for f in fields(LossSettings)})
    _check_compared(args, plan)
    _check_ties(args, plan)
    _check_labels(args, plan)
    if settings.tie_nu is None:
        settings.tie_nu = _estimated_tie_nu(args, plan if start is None else start)
    check_margins(args, plan, "the plan")
    if needs(args.all_losses, "margin"):
        if settings.soft_threshold is None:
            settings.soft_threshold = plan.threshold_margin
        if settings.soft_threshold is None and {"margin_weighted", "soft_routed"} & set(args.all_losses):
            raise InputError("the plan has no threshold", hint="set soft_threshold to a margin")
    return StepSettings(
        loss_names=args.loss_names,
        loss_weights=args.loss_weights or [1.0] * len(args.loss_names),
        hard_loss_names=args.hard_loss_names,
        loss_settings=settings,
        sft_weight=args.sft_weight,
        ld_alpha=args.ld_alpha,
        use_weighting=args.use_weighting,
        reward_calibration=args.reward_calibration,
    )


def check_margins(args: MixDPOConfig, plan: Plan, of: str) -> None:
    """Raise `InputError` if a loss of either route reads margins and `plan`, which is `of` some data, has none."""
    if needs(args.all_losses, "margin") and np.isnan(plan.margin).any():
        raise InputError(
            f"{' + '.join(args.all_losses)} reads margins, and {of} has none",
            hint="score the data and make the plan with its metric",
        )


def _check_compared(args: MixDPOConfig, plan: Plan) -> None:
    """Raise `InputError` if a setting is of losses that compare two answers, and no pair has any."""
    if plan.compared_pairs or plan.settings.stages > 1:
        return
    for name, is_set in (
        ("label_smoothing per_pair", args.smooths_per_pair and not args.hard_loss_names),
        ("reward_calibration", args.reward_calibration),
    ):
        if is_set:
            raise InputError(f"{name} is set, and the plan gives no pair a preference loss", hint="leave it out")


def _check_ties(args: MixDPOConfig, plan: Plan) -> None:
    """Raise `InputError` if `plan` has ties, and a loss knows no probability of one, or all are calibrated."""
    without = [name for name in args.loss_names if not LOSSES[name].ties]
    has_ties = bool((plan.route == ROUTES.index("tie")).any())
    if has_ties and args.reward_calibration:
        raise InputError(
            "reward_calibration tells chosen from rejected answers, and the plan routes pairs to tie",
            hint="leave reward_calibration out, or take another route",
        )
    if without and has_ties:
        with_ties = " or ".join(name for name, loss in LOSSES.items() if loss.ties)
        raise InputError(
            f"the plan routes pairs to tie, and {without[0]} knows no probability of a tie",
            hint=f"set loss_type to {with_ties}, or take another route",
        )


def _estimated_tie_nu(args: MixDPOConfig, plan: Plan) -> float | None:
    """Return the nu of the loss under which ties are as frequent as among the plan's pairs that it trains.

    None if no pair is a tie, for the loss's own value.

    Raises:
        InputError: every pair is a tie.
    """
    names = [name for name in TIE_NU if name in args.all_losses]
    share = plan.tie_share
    if not names or share == 0:
        return None
    if share == 1:
        raise InputError("every pair is a tie, so their share gives no tie_nu", hint="set tie_nu")
    return TIE_NU[names[0]](share)


def estimate_of_ties(args: MixDPOConfig, plan: Plan) -> str | None:
    """Return one line on `tie_nu` where it is estimated from the ties of a run's first `plan`; else None."""
    nu = _estimated_tie_nu(args, plan) if args.tie_nu is None else None
    if nu is None:
        return None
    return f"tie_nu is {nu:.4g}, for {percent_text(plan.tie_share)} of the pairs with a preference loss are ties"


def _check_labels(args: MixDPOConfig, plan: Plan) -> None:
    """Raise `InputError` if a loss reads how sure labels are and `plan` does not say it, or says too much."""
    readers = [name for name in args.all_losses if LOSSES[name].label]
    if plan.label_probability is None:
        if args.smooths_per_pair:
            raise InputError(
                "label_smoothing is per_pair, and the plan has no label_probability",
                hint="set label_probability in the plan's settings, or label_smoothing to a number",
            )
        if readers:
            raise InputError(
                f"{readers[0]} reads the probability that a label is right, and the plan has none",
                hint="set label_probability in the plan's settings to column or agreement",
            )
        return
    if not args.smooths_per_pair:
        return
    routes = np.asarray(ROUTES)[plan.route]
    on_route = {"preference": args.loss_names, "tie": args.loss_names, "sft": args.hard_loss_names}
    both = [*args.loss_names, *args.hard_loss_names]
    robust = [route for route, names in {**on_route, "both": both}.items() if "robust" in names]
    if (bad := np.flatnonzero(np.isin(routes, robust) & (plan.label_probability <= 0.5))).size:
        raise InputError(
            f"label_probability is {plan.label_probability[bad[0]]:g}, and robust divides by 2 P - 1, which must "
            f"be above 0 ({bad.size:,} such {'pair' if bad.size == 1 else 'pairs'})",
            **plan.place_of(int(bad[0])),
            hint="drop these pairs, or set loss_type to sigmoid",
        )


def unread_labels(args: MixDPOConfig, plan: Plan) -> str | None:
    """Return one line where nothing reads how sure the plan is of its labels; else None."""
    read = args.smooths_per_pair or needs(args.all_losses, "label") or plan.settings.weight == "label_confidence"
    if plan.label_probability is None or read:
        return None
    readers = " or ".join(name for name, loss in LOSSES.items() if loss.label)
    return (
        "nothing reads the plan's label_probability: set label_smoothing to per_pair, plan.weight to "
        f"label_confidence, or loss_type to {readers}"
    )
