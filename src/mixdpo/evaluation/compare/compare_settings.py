"""Settings of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True, frozen=True)
class CompareSettings:
    """What is compared with what, and what the page shows."""

    against: str | None = field(
        default=None,
        metadata={
            "help": "model that all others are compared with; null: every two of up to six models, and of more each "
            "with the best"
        },
    )
    answers: Mapping[str, str | Path] = field(
        default_factory=dict, metadata={"help": "files of answers, by BENCHMARK/MODEL, for results that name none"}
    )
    prompts: Mapping[str, str | Path] = field(
        default_factory=dict,
        metadata={"help": "files of ids and texts of prompts, by benchmark, for answers that have no prompts"},
    )
    seed: int = field(default=0, metadata={"help": "seed of the resamples"})
    level: float = field(default=0.95, metadata={"help": "confidence level of the differences"})
