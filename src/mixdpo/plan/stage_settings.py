"""Settings of plans that move: what is decided anew at the end of each stage of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
