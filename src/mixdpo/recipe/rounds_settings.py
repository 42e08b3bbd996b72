"""The section `pairs` of a recipe: how rounds make their pairs, and what their models are compared by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice
from mixdpo.pairs.pair_making_settings import PairMakingSettings

RoundReference = Literal["last", "first"]


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(PairMakingSettings):
    """How each round makes its pairs, of the newest model's answers to the same prompts."""

    prompts: str = field(metadata={"help": "file, folder or hub id of the prompts that every round answers"})
    held_out: str = field(metadata={"help": "prompts that nothing is trained on, by which models are compared"})
    reference: RoundReference = field(
        default="last", metadata={"help": "frozen reference of a round: the model it begins with, or the first of all"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("pairs.reference", self.reference, RoundReference)
        if self.generation.samples < 2:
            raise InputError("pairs.generation.samples is 1, and a pair is of two answers", hint="set it to 2 or more")
