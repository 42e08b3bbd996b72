"""Which settings a plan can have: each by itself, and together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Final, get_args

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges, check_seed
from mixdpo.plan.plan_settings import (
    ROUTES,
    SORTED,
    AdviceSettings,
    AutoSettings,
    Epochs,
    LabelProbability,
    Order,
    Pacing,
    PlanSettings,
    Threshold,
    WeightSettings,
)
from mixdpo.plan.stage_settings import Gate, GatedRoute, StageMetric, StageSettings

_FORMS: Final = "{hardest: f}, {easiest: f}, {outside: [low, high]}, {column: NAME}"


def check_settings(settings: PlanSettings) -> None:
    """Raise `InputError` for a value that no plan can have."""
    for name, allowed in (
        ("easy_route", ROUTES),
        ("hard_route", ROUTES),
        ("order", get_args(Order)),
        ("epochs", get_args(Epochs)),
        ("first", ("easy", "hard", None)),
        ("label_probability", (*get_args(LabelProbability), None)),
    ):
        if getattr(settings, name) not in allowed:
            raise InputError(f"{name} is {getattr(settings, name)!r}; it is one of {', '.join(map(str, allowed))}")
    check_seed(settings.seed)
    if settings.first is not None and (settings.threshold is None or settings.easy_route == settings.hard_route):
        raise InputError(f"first: {settings.first} needs two routes, and all are {settings.easy_route}; set order")
    if settings.pacing is not None:
        if settings.pacing not in get_args(Pacing):
            raise InputError(f"pacing is {settings.pacing!r}; it is one of {', '.join(get_args(Pacing))}, or null")
        if settings.order not in SORTED or settings.first is not None or settings.epochs == "staged":
            raise InputError(
                f"pacing {settings.pacing} draws from the first pairs of an order by margin",
                hint=f"set order to {' or '.join(SORTED)}, first to null and epochs to per_epoch",
            )
    if settings.weight == "rate" and settings.order != "shuffled":
        raise InputError(
            f"weight rate gives a shuffled run the learning rates of a sorted one, and order is {settings.order}",
            hint="set order to shuffled",
        )
    if settings.refill and not settings.advised and "drop" not in (settings.easy_route, settings.hard_route):
        raise InputError("refill repeats pairs in the place of dropped ones, and the plan drops none")
    _check_threshold(settings.threshold)
    _check_is_read(settings)
    check_ranges(settings)
    if not 0 <= settings.min_share <= settings.max_share < 1:
        raise InputError(
            f"min_share is {settings.min_share!r} and max_share {settings.max_share!r}; "
            "they are shares with 0 <= min_share <= max_share < 1"
        )
    _check_stages(settings)


def _check_threshold(threshold: Threshold) -> None:
    if not isinstance(threshold, Mapping):
        if threshold not in (None, "auto") and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
            raise InputError(f"threshold is {threshold!r}; it is a margin, {_FORMS}, auto or null")
        return
    if len(threshold) != 1 or next(iter(threshold)) not in ("hardest", "easiest", "outside", "column"):
        raise InputError(f"threshold is {dict(threshold)}; it has one key, as in {_FORMS}")
    ((form, value),) = threshold.items()
    if form == "column":
        if not isinstance(value, str):
            raise InputError(f"threshold is {dict(threshold)}; a column is named, as in {{column: tie}}")
    elif form == "outside":
        edges = value if isinstance(value, list) and all(isinstance(edge, int | float) for edge in value) else []
        if len(edges) != 2 or not 0 <= edges[0] < edges[1] <= 1 or edges[1] - edges[0] == 1:
            raise InputError(
                f"threshold is {dict(threshold)}; a band is written {{outside: [low, high]}} with "
                "0 <= low < high <= 1, and not all of 0 to 1"
            )
    elif not isinstance(value, float) or not 0 < value < 1:
        raise InputError(f"threshold is {dict(threshold)}; a fraction is written {{{form}: f}} with 0 < f < 1")


def _check_is_read(settings: PlanSettings) -> None:
    """Raise `InputError` for a value that belongs to another setting, which does not read it."""
    changed = {f.name for f in fields(PlanSettings) if getattr(settings, f.name) != f.default}
    of_auto = [f.name for f in fields(AutoSettings) if f.name in changed]
    if settings.label_probability == "agreement" or settings.advised:
        of_auto = [name for name in of_auto if name != "signals"]
    if of_auto and settings.threshold != "auto":
        raise InputError(f"{of_auto[0]} belongs to threshold auto, and threshold is {settings.threshold!r}")
    of_advice = [f.name for f in fields(AdviceSettings) if f.name in changed]
    if of_advice and not settings.advised:
        raise InputError(f"{of_advice[0]} belongs to plans that are advised", hint="set name to advised")
    _check_advised(settings)
    of_madpo = [f.name for f in fields(WeightSettings) if f.name.startswith("madpo_") and f.name in changed]
    if of_madpo and settings.weight != "madpo":
        raise InputError(f"{of_madpo[0]} belongs to weight madpo, and weight is {settings.weight!r}")


def _check_advised(settings: PlanSettings) -> None:
    """Raise `InputError` for settings that say of an advised plan what the advice is to say."""
    routes = {"threshold": None, "easy_route": "preference", "hard_route": "sft"}
    for name, value in routes.items():
        if settings.advised and getattr(settings, name) != value:
            raise InputError(f"{name} is set, and routes of this plan are advised", hint=f"leave {name} out")
    if settings.advised and settings.stages > 1:
        raise InputError("advised routes are of the whole run, and stages would make routes anew; set stages to 1")


def _check_stages(settings: PlanSettings) -> None:
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
