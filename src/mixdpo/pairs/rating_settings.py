"""How answers are rated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixdpo.common.settings import check_ranges

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
    max_tokens: int = field(default=1024, metadata={"help": "longest judgement", "at_least": 1})
    lower_is_better: bool = field(
        default=False, metadata={"help": "the judge gives its best answers its lowest number"}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "rating setting ")
