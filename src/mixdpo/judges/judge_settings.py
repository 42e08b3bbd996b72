"""Settings that name a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import build, check_ranges
from mixdpo.data.data_settings import TEMPLATE_KWARGS_HELP
from mixdpo.generation.generation_settings import EndpointSettings

Temperature = float | Literal["default"]
"""At which a judge writes; `default` sends none, for models that take only their own."""
JudgeKind = Literal["endpoint", "model", "reward", "program"]
JUDGES_HELP: Final = (
    "a name, or the settings {judge, kind, temperature, chat_template_kwargs, batch_size, endpoint: {base_url, ...}}, "
    "or a list of such"
)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge to take."""

    judge: str | None = field(
        default=None, metadata={"help": "who judges: a name at the endpoint, a model's folder or hub id, or a command"}
    )
    kind: JudgeKind | None = field(
        default=None,
        metadata={
            "help": "default: endpoint where a URL is given, else model or reward, by the architecture; reward with a "
            "URL: a server's /classify or /pooling",
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


JudgesGiven = str | dict[str, Any] | JudgeSettings | list[Any] | None
"""What a setting may say of judges; see `JUDGES_HELP`."""


def judges_named(given: JudgesGiven, name: str) -> list[JudgeSettings]:
    """Return the judges that a setting `name` says. An endpoint without a model's name has that of its judge.

    Raises:
        InputError: it names none, one twice, or something that the settings do not know.
    """
    listed = given if isinstance(given, list) else [] if given is None else [given]
    judges = [_judge_named(one, name) for one in listed]
    if not judges:
        raise InputError(f"{name} names no judge", hint=f"it is {JUDGES_HELP}")
    names = [one.judge for one in judges]
    if (twice := next((one for one in names if names.count(one) > 1), None)) is not None:
        raise InputError(f"{name} names the judge {twice!r} twice")
    return judges


def _judge_named(given: Any, name: str) -> JudgeSettings:
    if isinstance(given, JudgeSettings):
        return given
    values = {"judge": given} if isinstance(given, str) else given
    if not isinstance(values, Mapping):
        raise InputError(f"{name} must be {JUDGES_HELP}, not {given!r}")
    endpoint = values.get("endpoint")
    if isinstance(endpoint, Mapping):
        of_judge = {"model": values["judge"]} if "judge" in values else {}
        values = {**values, "endpoint": build(EndpointSettings, {**of_judge, **endpoint}, f"{name}.endpoint")}
    return build(JudgeSettings, values, name)
