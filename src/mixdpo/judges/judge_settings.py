"""Settings that name a judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mixdpo.common.settings import check_ranges
from mixdpo.data.data_settings import TEMPLATE_KWARGS_HELP
from mixdpo.generation.generation_settings import EndpointSettings

Temperature = float | Literal["default"]
"""At which a judge writes; `default` sends none, for models that take only their own."""
JudgeKind = Literal["endpoint", "model", "reward", "program"]


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge to take."""

    judge: str | None = field(
        default=None, metadata={"help": "who judges: a name at the endpoint, a model's folder or hub id, or a command"}
    )
    kind: JudgeKind | None = field(
        default=None,
        metadata={
            "help": "default: endpoint where a URL is given, else model or reward, by the architecture",
            "option": "--judge-kind",
        },
    )
    temperature: Temperature | None = field(
        default=None,
        metadata={
            "help": "left out: the benchmark's, mostly 0; default: none is sent, for models with a fixed one",
            "option": "--judge-temperature",
            "at_least": 0,
            "below": 100,
        },
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None,
        metadata={"help": f"of the judge: {TEMPLATE_KWARGS_HELP}", "option": "--judge-chat-template-kwargs"},
    )
    batch_size: int = field(default=8, metadata={"help": "answers at once, of a judge on this machine", "at_least": 1})
    endpoint: EndpointSettings | None = field(default=None, metadata={"help": "how an endpoint is called"})

    def __post_init__(self) -> None:
        check_ranges(self, "judge setting ")
