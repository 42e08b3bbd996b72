"""Settings of a comparison, apart from what compares, so that the command line's help waits for no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mixdpo.common.settings import check_ranges


@dataclass(kw_only=True, frozen=True)
class CompareSettings:
    """What is compared with what, and what the page shows."""

    against: str | None = field(
        default=None,
        metadata={
            "help": "model that all others are compared with on the same prompts; default: every two of up to six "
            "models, and of more each with the best"
        },
    )
    answers: Mapping[str, Path] = field(
        default_factory=dict,
        metadata={
            "help": "answers of a model whose result names none; may be given again",
            "metavar": "BENCHMARK/MODEL=FILE",
        },
    )
    prompts: Mapping[str, Path] = field(
        default_factory=dict,
        metadata={
            "help": "ids and texts of prompts that answers lack; may be given again",
            "metavar": "BENCHMARK=FILE",
        },
    )
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})
    level: float = field(
        default=0.95, metadata={"help": "confidence level of the differences", "above": 0, "below": 1}
    )

    def __post_init__(self) -> None:
        check_ranges(self)
