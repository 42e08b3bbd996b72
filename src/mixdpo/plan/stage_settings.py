"""Settings of plans that move: what is decided anew at the end of each stage of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, get_args

from mixdpo.common.errors import InputError

if TYPE_CHECKING:
    from mixdpo.plan.plan_settings import PlanSettings

StageMetric = Literal["nll_gap", "reference_logp", "implicit_reward"]
Gate = Literal["likelihood"]
GatedRoute = Literal["drop", "preference", "sft", "both"]


@dataclass(kw_only=True, frozen=True)
class StageSettings:
    """Settings of a run's stages, part of a plan's."""

    stages: int = field(
        default=1,
        metadata={
            "help": "cut the run into so many stages of equally many pairs; each trains its share of the pairs, those "
            "first in the order that were in no stage before",
            "at_least": 1,
            "keyed_if_set": True,
        },
    )
    stage_metric: StageMetric | None = field(
        default=None,
        metadata={
            "help": "stages: metric of the policy, computed at the end of each, by which order and routes are made "
            "anew; null: margins stay as they are",
            "keyed_if_set": True,
        },
    )
    gate: Gate | None = field(
        default=None,
        metadata={
            "help": "stages: likelihood routes to hard_route only pairs whose chosen answer has become likelier than "
            "at the start; none are trained in the first stage; null: all",
            "keyed_if_set": True,
        },
    )
    gated_route: GatedRoute = field(
        default="drop",
        metadata={"help": "gate: objective of the hard pairs that it does not let through", "keyed_if_set": True},
    )


def check_stages(settings: PlanSettings) -> None:
    """Raise `InputError` for settings of stages that contradict each other or the plan's others."""
    for name, allowed in (("stage_metric", StageMetric), ("gate", Gate), ("gated_route", GatedRoute)):
        value = getattr(settings, name)
        if value not in get_args(allowed) and not (value is None and name != "gated_route"):
            which = "" if name != "stage_metric" else ", for no other margin is the policy's own"
            null = "" if name == "gated_route" else " or null"
            raise InputError(f"{name} is {value!r}; it is one of {', '.join(get_args(allowed))}{null}{which}")
    if settings.epochs == "staged" and settings.stages > 1:
        raise InputError("stages and epochs: staged cut a run in two ways; set one of them")
    if settings.stages == 1:
        for f in fields(StageSettings):
            if f.name != "stages" and getattr(settings, f.name) != f.default:
                raise InputError(f"{f.name} is for plans of several stages; set stages to 2 or more")
        return
    if settings.weight == "rate":
        raise InputError("weight rate needs the order of the whole run, and a stage decides its own when it begins")
    moves = settings.stage_metric not in (None, settings.metric)
    if moves and isinstance(settings.threshold, float | int):
        raise InputError(
            f"threshold {settings.threshold:g} is a margin of {settings.metric}, and stage_metric "
            f"{settings.stage_metric} has another scale",
            hint="write it as a share, {hardest: f}, or take auto",
        )
    if settings.gate is None:
        if settings.gated_route != "drop":
            raise InputError("gated_route is where a gate sends pairs; set gate to likelihood")
    elif settings.threshold is None or settings.hard_route in (settings.easy_route, "drop"):
        raise InputError(
            f"gate {settings.gate} decides which hard pairs go to hard_route, and this plan sends none there",
            hint="set a threshold, and hard_route to another route than easy_route and drop",
        )
