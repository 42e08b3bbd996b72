"""How answers are rated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice, check_ranges

RatingMode = Literal["grade", "pairwise"]


@dataclass(frozen=True, kw_only=True)
class RatingSettings:
    """How a judge rates the answers to a prompt."""

    mode: RatingMode = field(
        default="grade",
        metadata={"help": "grade: a number for each answer; pairwise: two answers at a time, in both orders"},
    )
    judge_prompt: Path | None = field(
        default=None, metadata={"help": "what a language model is asked; default: mixdpo's own for the mode"}
    )
    max_tokens: int = field(
        default=1024, metadata={"help": "longest judgement", "option": "--judge-max-tokens", "at_least": 1}
    )
    lower_is_better: bool = field(
        default=False, metadata={"help": "the judge gives its best answers its lowest number"}
    )

    scale: tuple[float, float] | None = field(
        default=None,
        metadata={
            "help": "a number off it is no grade; default: what the judge prompt names, as in a number from 1 to 10",
            "metavar": "LOW HIGH",
        },
    )
    opponents: int | None = field(
        default=None,
        metadata={
            "help": "pairwise: answers that each is compared with at most; default: all to the prompt",
            "at_least": 2,
        },
    )
    seed: int = field(
        default=0, metadata={"help": "of what is drawn: opponents, and with --against prompts and answers"}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "rating setting ")
        check_choice("rating setting mode", self.mode, RatingMode)
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise InputError(f"rating setting scale is {self.scale}; write its lowest number first")
        if self.mode == "pairwise" and (self.lower_is_better or self.scale is not None):
            raise InputError(
                "the mode pairwise has no numbers, and so no scale", hint="leave out --lower-is-better and --scale"
            )
        if self.mode == "grade" and self.opponents is not None:
            raise InputError("only the mode pairwise has opponents", hint="give --mode pairwise, or no --opponents")
