"""What a plan is made from besides the data, and the named plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal, NamedTuple, get_args

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges, check_seed
from mixdpo.plan.stage_settings import StageSettings, check_stages

Order = Literal["easy_to_hard", "hard_to_easy", "shuffled", "as_is"]
Route = Literal["preference", "sft", "both", "drop", "tie"]
Epochs = Literal["per_epoch", "staged"]
LabelProbability = Literal["column", "agreement"]
Pacing = Literal["linear", "sqrt"]
Threshold = float | dict[str, float | list[float] | str] | Literal["auto"] | None

SORTED: Final = ("easy_to_hard", "hard_to_easy")
ROUTES: Final[tuple[Route, ...]] = ("preference", "sft", "both", "drop", "tie")
"""`both` is the preference loss plus `sft_weight` times the SFT loss on the same pair; `tie` is the preference loss's
own for two answers that are equally good."""
BUCKETS: Final = ("easy", "middle", "hard")


@dataclass(kw_only=True, frozen=True)
class AutoSettings:
    """Settings of `threshold: auto`, part of a plan's."""

    signals: list[str] | None = field(
        default=None,
        metadata={
            "help": "auto, agreement: metrics that judge the labels; null: all other margin/* columns that take sides"
        },
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
class WeightSettings:
    """How much each pair counts and how sure its label is, part of a plan's settings."""

    weight: str | None = field(
        default=None,
        metadata={
            "help": "factor of each pair's loss: NAME of a column weight/NAME, or a rule: label_confidence (2 P - 1, "
            "at least 0, of label_probability), madpo (by the margins of a reward model) or rate (learning rates that "
            "a sorted run would give); null: 1",
            "keyed_if_set": True,
        },
    )
    label_probability: LabelProbability | None = field(
        default=None,
        metadata={
            "help": "probability P that each pair's label is right: column (label_probability), or agreement (of the "
            "other metrics with the label, by margin); null: 1",
            "keyed_if_set": True,
        },
    )
    madpo_max: float = field(
        default=2.0, metadata={"help": "madpo: c of the hardest pairs", "above": 1, "keyed_if_set": True}
    )
    madpo_min: float = field(
        default=0.5,
        metadata={"help": "madpo: c of the easiest pairs", "at_least": 0, "below": 1, "keyed_if_set": True},
    )
    madpo_lambda: float = field(
        default=1.0, metadata={"help": "madpo: slope of c, per unit of margin", "above": 0, "keyed_if_set": True}
    )
    madpo_tau: float = field(
        default=math.log(999),
        metadata={"help": "madpo: size of the margins of weight 1", "above": 0, "keyed_if_set": True},
    )


@dataclass(kw_only=True, frozen=True)
class PlanSettings(WeightSettings, AutoSettings, StageSettings):
    """What a plan is made from, besides the data."""

    metric: str = field(
        default="rating", metadata={"help": "difficulty metric; the margins are in column margin/<metric>"}
    )
    order: Order = field(default="easy_to_hard", metadata={"help": "order of the pairs within an epoch"})
    threshold: Threshold = field(
        default_factory=lambda: {"hardest": 0.1},
        metadata={
            "help": "pairs routed away from the preference loss: a margin (pairs strictly under it), "
            "{hardest: f} (the fraction f of smallest margins), {easiest: f} (of largest), {outside: [low, high]} "
            "(all but those from quantile low to high, 0 = easiest), {column: NAME} (where it is true), "
            "auto (found in the data), or null (none)"
        },
    )
    easy_route: Route = field(default="preference", metadata={"help": "objective of the other pairs"})
    hard_route: Route = field(default="sft", metadata={"help": "objective of the pairs that the threshold takes"})
    first: Literal["easy", "hard"] | None = field(
        default=None,
        metadata={"help": "train all easy (or all hard) pairs first, each part in `order`; null: order alone"},
    )
    epochs: Epochs = field(
        default="per_epoch",
        metadata={"help": "per_epoch repeats the order; staged finishes all epochs of the first part first"},
    )
    pacing: Pacing | None = field(
        default=None,
        metadata={
            "help": "draw from a pool of the easiest pairs (of a hard_to_easy order: the hardest) that grows over the "
            "run, linear or sqrt; null: keep to the order",
            "keyed_if_set": True,
        },
    )
    refill: bool = field(
        default=False,
        metadata={
            "help": "repeat the pairs that are left after some were dropped, until an epoch has as many as all",
            "keyed_if_set": True,
        },
    )
    seed: int = field(default=42, metadata={"help": "decides shuffles and the order of equal margins"})

    @property
    def needs_margins(self) -> bool:
        """Whether order, threshold, weights or label probabilities ask how hard a pair is."""
        by_column = isinstance(self.threshold, Mapping) and "column" in self.threshold
        by_threshold = self.threshold is not None and not by_column
        by_label = self.weight in ("madpo", "rate") or self.label_probability == "agreement"
        return self.order in SORTED or by_threshold or by_label


class Band(NamedTuple):
    """The shares of the pairs, in [0, 1), that lie outside a band of margins on either side of it."""

    easiest: float
    hardest: float


def band_of(threshold: Threshold) -> Band | None:
    """Return which shares a threshold takes, None for one that is not a share."""
    match threshold:
        case {"hardest": float(share)}:
            return Band(0.0, share)
        case {"easiest": float(share)}:
            return Band(share, 0.0)
        case {"outside": [low, high]}:
            return Band(low, round(1 - high, 12))  # so that 0.9 leaves the 0.1 of {hardest: 0.1}
        case _:
            return None


_FORMS: Final = "{hardest: f}, {easiest: f}, {outside: [low, high]}, {column: NAME}"

# One entry per method that the paper or its reviewers compare; any field can be changed on top.
PLANS: Final[Mapping[str, PlanSettings]] = {
    "mixdpo": PlanSettings(),
    "dpo": PlanSettings(order="shuffled", threshold=None),
    "dpo_sorted": PlanSettings(threshold=None),
    "rate_weighted": PlanSettings(order="shuffled", threshold=None, weight="rate"),
    "dpo_paced": PlanSettings(threshold=None, pacing="sqrt"),
    "staged_competence": PlanSettings(threshold=None, stages=3, pacing="sqrt"),
    "anti_curriculum": PlanSettings(order="hard_to_easy", threshold=None),
    "selective_dpo": PlanSettings(threshold={"hardest": 0.5}, hard_route="drop"),
    "mixdpo_unsorted": PlanSettings(order="shuffled"),
    "sft_first": PlanSettings(first="hard"),
    "sft_chosen": PlanSettings(order="shuffled", threshold=None, easy_route="sft"),
    "uniform_mix": PlanSettings(order="shuffled", threshold=None, easy_route="both"),
    "smallest_gap": PlanSettings(
        metric="implicit_reward", order="shuffled", threshold={"easiest": 0.9}, hard_route="drop"
    ),
    "fused_margin": PlanSettings(metric="fused", order="shuffled", threshold={"hardest": 0.9}, hard_route="drop"),
    "middle_influence": PlanSettings(
        metric="middle", order="shuffled", threshold={"hardest": 0.36}, hard_route="drop"
    ),
    "preference_variance": PlanSettings(
        metric="preference_variance", order="shuffled", threshold={"hardest": 0.9}, hard_route="drop"
    ),
    "ties": PlanSettings(order="shuffled", hard_route="tie"),
    "madpo": PlanSettings(metric="reward_model", order="shuffled", threshold=None, weight="madpo"),
}


def check_settings(settings: PlanSettings) -> None:
    """Raise `InputError` for a value that no plan can have."""
    for name, allowed in (
        ("easy_route", ROUTES),
        ("hard_route", ROUTES),
        ("order", ("easy_to_hard", "hard_to_easy", "shuffled", "as_is")),
        ("epochs", ("per_epoch", "staged")),
        ("first", ("easy", "hard", None)),
        ("label_probability", ("column", "agreement", None)),
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
    if settings.refill and "drop" not in (settings.easy_route, settings.hard_route):
        raise InputError("refill repeats pairs in the place of dropped ones, and the plan drops none")
    _check_threshold(settings.threshold)
    _check_is_read(settings)
    check_ranges(settings)
    if not 0 <= settings.min_share <= settings.max_share < 1:
        raise InputError(
            f"min_share is {settings.min_share!r} and max_share {settings.max_share!r}; "
            "they are shares with 0 <= min_share <= max_share < 1"
        )
    check_stages(settings)


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
    if settings.label_probability == "agreement":
        of_auto = [name for name in of_auto if name != "signals"]
    if of_auto and settings.threshold != "auto":
        raise InputError(f"{of_auto[0]} belongs to threshold auto, and threshold is {settings.threshold!r}")
    of_madpo = [f.name for f in fields(WeightSettings) if f.name.startswith("madpo_") and f.name in changed]
    if of_madpo and settings.weight != "madpo":
        raise InputError(f"{of_madpo[0]} belongs to weight madpo, and weight is {settings.weight!r}")
