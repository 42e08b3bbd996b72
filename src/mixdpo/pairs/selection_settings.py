"""Which of several answers to a prompt become pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice, check_ranges

SelectionRule = Literal["best-worst", "best-random", "best-low", "best-each", "gap", "all", "neighbours", "ties"]
RULE_NAMES: Final[tuple[SelectionRule, ...]] = get_args(SelectionRule)


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Which answers become pairs."""

    select: tuple[SelectionRule, ...] = field(
        default=("best-random",),
        metadata={
            "help": "rule; may be given again. best-low: against the one nearest to mean - 2 deviations; "
            "best-each: against each other one, equal ones too; gap: the two nearest to --gap apart; neighbours: "
            "each and the next lower one; ties: equal scores"
        },
    )
    writers: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "model whose answers are better than those of the models named after it, whatever their scores; "
            "given again for each",
            "option": "--writer",
        },
    )
    gap: float | None = field(default=None, metadata={"help": "margin that the rule gap looks for", "above": 0})
    max_per_prompt: int | None = field(
        default=None,
        metadata={"help": "pairs of a prompt at most; of best-each one of each score comes first", "at_least": 1},
    )
    length_ratio: float | None = field(
        default=None,
        metadata={"help": "the longer answer has at most this many times the characters of the other", "at_least": 1},
    )
    near_similarity: float = field(
        default=0.9,
        metadata={"help": "answers that share this part of their word n-grams are one", "above": 0, "at_most": 1},
    )
    keep_cut: bool = field(default=False, metadata={"help": "pair answers that the model did not end, too"})
    seed: int = field(default=0, metadata={"help": "of what is drawn"})

    def __post_init__(self) -> None:
        check_ranges(self, "selection setting ")
        for rule in self.select:
            check_choice("selection setting select", rule, SelectionRule)
        if not self.select:
            raise InputError("no rule says which answers become pairs", hint=f"give one of {', '.join(RULE_NAMES)}")
        if len(self.writers) == 1 or len(set(self.writers)) < len(self.writers):
            raise InputError(
                "one writer alone is better than none", hint="give --writer BETTER --writer WORSE, two different ones"
            )
        if "gap" in self.select and self.gap is None:
            raise InputError("the rule gap needs the margin it looks for", hint="give --gap MARGIN")
