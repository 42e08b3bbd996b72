"""What a plan is made from besides the data, and the named plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypedDict

from mixdpo.plan.stage_settings import Gate, GatedRoute, StageMetric, StageSettings

Order = Literal["easy_to_hard", "hard_to_easy", "shuffled", "as_is"]
Route = Literal["preference", "sft", "both", "drop", "tie"]
Epochs = Literal["per_epoch", "staged"]
LabelProbability = Literal["column", "agreement"]
Pacing = Literal["linear", "sqrt"]
First = Literal["easy", "hard"]
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
class AdviceSettings:
    """Routes by margin as the map of worlds advises them, part of a plan's settings."""

    advised: bool = field(
        default=False,
        metadata={
            "help": "route pairs by margin as `mixdpo advise` says; threshold, easy_route and hard_route are not read",
            "keyed_if_set": True,
        },
    )
    start_policy: str = field(
        default="start",
        metadata={"help": "advised: NAME of the columns quality/NAME/chosen of the start", "keyed_if_set": True},
    )
    trained_policy: str = field(
        default="trained",
        metadata={"help": "advised: NAME of those of a policy trained on the pairs", "keyed_if_set": True},
    )
    least_effect: float = field(
        default=3.0,
        metadata={
            "help": "advised: effect that matters, in per cent of what a preference loss on all pairs gains",
            "above": 0,
            "keyed_if_set": True,
        },
    )


@dataclass(kw_only=True, frozen=True)
class PlanSettings(AdviceSettings, WeightSettings, AutoSettings, StageSettings):
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
    first: First | None = field(
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
        return self.order in SORTED or by_threshold or by_label or self.advised


class PlanKeywords(TypedDict, total=False):
    """The fields of `PlanSettings` as keywords of a function, for type checkers; a test holds both equal."""

    stages: int
    stage_metric: StageMetric | None
    gate: Gate | None
    gated_route: GatedRoute
    signals: list[str] | None
    trust: float
    min_share: float
    max_share: float
    weight: str | None
    label_probability: LabelProbability | None
    madpo_max: float
    madpo_min: float
    madpo_lambda: float
    madpo_tau: float
    advised: bool
    start_policy: str
    trained_policy: str
    least_effect: float
    metric: str
    order: Order
    threshold: Threshold
    easy_route: Route
    hard_route: Route
    first: First | None
    epochs: Epochs
    pacing: Pacing | None
    refill: bool
    seed: int


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
    "advised": PlanSettings(order="shuffled", threshold=None, advised=True, refill=True),
    "madpo": PlanSettings(metric="reward_model", order="shuffled", threshold=None, weight="madpo"),
}
