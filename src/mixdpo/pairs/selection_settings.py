"""Which of several answers to a prompt become pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mixdpo.common.settings import check_ranges

SelectionRule = Literal["best-worst", "best-random", "best-low", "best-each", "gap", "all", "neighbours", "ties"]


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Which answers become pairs."""

    select: tuple[SelectionRule, ...] = field(
        default=("best-random",),
        metadata={
            "help": "rule; may be given again. best-low: against the one nearest to mean - 2 deviations; "
            "best-each: against one of each lower score; gap: the two nearest to --gap apart; neighbours: each "
            "and the next lower one; ties: equal scores"
        },
    )
    gap: float | None = field(default=None, metadata={"help": "margin that the rule gap looks for", "above": 0})
    max_per_prompt: int | None = field(default=None, metadata={"help": "pairs of a prompt at most", "at_least": 1})
    length_ratio: float | None = field(
        default=None, metadata={"help": "the longer answer is at most this many times as long", "at_least": 1}
    )
    near_similarity: float = field(
        default=0.9,
        metadata={"help": "answers that share this part of their word n-grams are one", "above": 0, "at_most": 1},
    )
    keep_cut: bool = field(default=False, metadata={"help": "pair answers that the model did not end, too"})
    seed: int = field(default=0, metadata={"help": "of what is drawn"})

    def __post_init__(self) -> None:
        check_ranges(self, "selection setting ")
