"""What a plan is made from besides the data, and the named plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges, check_seed

Order = Literal["easy_to_hard", "hard_to_easy", "shuffled", "as_is"]
Route = Literal["preference", "sft", "both", "drop", "tie"]
Epochs = Literal["per_epoch", "staged"]
Threshold = float | dict[str, float] | Literal["auto"] | None

ROUTES: Final[tuple[Route, ...]] = ("preference", "sft", "both", "drop", "tie")
"""`both` is the preference loss plus `sft_weight` times the SFT loss on the same pair; `tie` is the preference loss's
own for two answers that are equally good."""
BUCKETS: Final = ("easy", "middle", "hard")


@dataclass(kw_only=True, frozen=True)
class AutoSettings:
    """Settings of `threshold: auto`, part of a plan's."""

    signals: list[str] | None = field(
        default=None,
        metadata={"help": "auto: metrics that judge the labels; null: all other margin/* columns that take sides"},
    )
    trust: float = field(
        default=0.5,
        metadata={
            "help": "auto: share of the agreement with the easiest third, beyond chance, that a label must keep",
            "above": 0,
            "below": 1,
        },
    )
    min_share: float = field(default=0.0, metadata={"help": "auto: smallest share of the pairs to route"})
    max_share: float = field(default=0.5, metadata={"help": "auto: largest share of the pairs to route, ties apart"})


@dataclass(kw_only=True, frozen=True)
class PlanSettings(AutoSettings):
    """What a plan is made from, besides the data."""

    metric: str = field(
        default="rating", metadata={"help": "difficulty metric; the margins are in column margin/<metric>"}
    )
    order: Order = field(default="easy_to_hard", metadata={"help": "order of the pairs within an epoch"})
    threshold: Threshold = field(
        default_factory=lambda: {"hardest": 0.1},
        metadata={
            "help": "pairs routed away from the preference loss: a margin (pairs strictly under it), "
            "{hardest: f} (the fraction f of smallest margins), auto (found in the data), or null (none)"
        },
    )
    easy_route: Route = field(default="preference", metadata={"help": "objective of the other pairs"})
    hard_route: Route = field(default="sft", metadata={"help": "objective of the pairs under the threshold"})
    first: Literal["easy", "hard"] | None = field(
        default=None,
        metadata={"help": "train all easy (or all hard) pairs first, each part in `order`; null: order alone"},
    )
    epochs: Epochs = field(
        default="per_epoch",
        metadata={"help": "per_epoch repeats the order; staged finishes all epochs of the first part first"},
    )
    seed: int = field(default=42, metadata={"help": "decides shuffles and the order of equal margins"})


# One entry per method that the paper or its reviewers compare; any field can be changed on top.
PLANS: Final[Mapping[str, PlanSettings]] = {
    "mixdpo": PlanSettings(),
    "dpo": PlanSettings(order="shuffled", threshold=None),
    "dpo_sorted": PlanSettings(threshold=None),
    "anti_curriculum": PlanSettings(order="hard_to_easy", threshold=None),
    "selective_dpo": PlanSettings(threshold={"hardest": 0.5}, hard_route="drop"),
    "mixdpo_unsorted": PlanSettings(order="shuffled"),
    "sft_first": PlanSettings(first="hard"),
    "sft_chosen": PlanSettings(order="shuffled", threshold=None, easy_route="sft"),
    "uniform_mix": PlanSettings(order="shuffled", threshold=None, easy_route="both"),
}


def check_settings(settings: PlanSettings) -> None:
    """Raise `InputError` for a value that no plan can have."""
    for name, allowed in (
        ("easy_route", ROUTES),
        ("hard_route", ROUTES),
        ("order", ("easy_to_hard", "hard_to_easy", "shuffled", "as_is")),
        ("epochs", ("per_epoch", "staged")),
        ("first", ("easy", "hard", None)),
    ):
        if getattr(settings, name) not in allowed:
            raise InputError(f"{name} is {getattr(settings, name)!r}; it is one of {', '.join(map(str, allowed))}")
    check_seed(settings.seed)
    if settings.first is not None and (settings.threshold is None or settings.easy_route == settings.hard_route):
        raise InputError(f"first: {settings.first} needs two routes, and all are {settings.easy_route}; set order")
    threshold = settings.threshold
    if isinstance(threshold, Mapping):
        if set(threshold) != {"hardest"} or not isinstance(f := threshold["hardest"], float) or not 0 < f < 1:
            raise InputError(f"threshold is {dict(threshold)}; a fraction is written {{hardest: f}} with 0 < f < 1")
    elif threshold not in (None, "auto") and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
        raise InputError(f"threshold is {threshold!r}; it is a margin, {{hardest: f}}, auto or null")
    check_auto(settings, threshold)


def check_auto(settings: AutoSettings, threshold: Any) -> None:
    """Raise `InputError` for values out of range, or set without `threshold: auto`."""
    for f in fields(AutoSettings):
        if threshold != "auto" and getattr(settings, f.name) != f.default:
            raise InputError(f"{f.name} belongs to threshold auto, and threshold is {threshold!r}")
    check_ranges(settings)
    if not 0 <= settings.min_share <= settings.max_share < 1:
        raise InputError(
            f"min_share is {settings.min_share!r} and max_share {settings.max_share!r}; "
            "they are shares with 0 <= min_share <= max_share < 1"
        )
