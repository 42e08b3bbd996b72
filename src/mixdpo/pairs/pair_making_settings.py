"""How prompts become pairs of models' own answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges
from mixdpo.generation.generation_settings import GenerationSettings
from mixdpo.judges.judge_settings import JudgeSettings
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.pairs.selection_settings import SelectionSettings

SAMPLES: Final = 8
"""Answers to a prompt that pairs are chosen from, where no number is given."""


@dataclass(frozen=True, kw_only=True)
class PairMakingSettings:
    """How prompts are answered, how the answers are rated, and which of them become pairs."""

    generation: GenerationSettings = field(
        default_factory=lambda: GenerationSettings(samples=SAMPLES), metadata={"help": "how prompts are answered"}
    )
    batch_size: int = field(
        default=32, metadata={"help": "answers at once, of a model on this machine", "at_least": 1}
    )
    judge: JudgeSettings | list[JudgeSettings] = field(metadata={"help": "who rates the answers; several: a list"})
    rating: RatingSettings = field(default_factory=RatingSettings, metadata={"help": "how answers are rated"})
    selection: SelectionSettings = field(
        default_factory=SelectionSettings, metadata={"help": "which answers become pairs"}
    )

    def __post_init__(self) -> None:
        check_ranges(self, "pairs setting ")
        if not self.judges:
            raise InputError("no judge rates the answers", hint="name one or several in `judge`, or with --judge")

    @property
    def judges(self) -> list[JudgeSettings]:
        """The judges, in order."""
        return self.judge if isinstance(self.judge, list) else [self.judge]
