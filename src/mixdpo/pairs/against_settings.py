"""Which policies the answers of pairs are rated against, and on how many prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixdpo.common.settings import check_ranges


@dataclass(frozen=True, kw_only=True)
class AgainstSettings:
    """Policies whose own answers to the prompts of pairs are rated together with those of the pairs."""

    against: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "rate the answers of pairs against this policy's own: a file of its answers, or a model's folder "
            "or hub id, which answers the prompts first; may be given again",
            "metavar": "NAME=POLICY",
        },
    )
    against_endpoint: str | None = field(
        default=None,
        metadata={
            "help": "URL of an OpenAI-compatible endpoint, up to and with /v1, at which the policies' models are"
        },
    )
    against_samples: int = field(default=4, metadata={"help": "answers of a model to each prompt", "at_least": 1})
    limit: int | None = field(
        default=None,
        metadata={"help": "prompts that are rated, drawn by --seed; default: all", "at_least": 1},
    )

    def __post_init__(self) -> None:
        check_ranges(self)
