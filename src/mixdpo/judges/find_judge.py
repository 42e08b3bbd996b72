"""Who judges: a language model behind an endpoint or on this machine, a reward model, or a program.

What loads models is imported when such a judge is wanted: PyTorch takes seconds, a program needs none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges
from mixdpo.data.data_settings import TEMPLATE_KWARGS_HELP
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.judges.judge import Judge
from mixdpo.judges.language_model import LanguageJudge
from mixdpo.judges.program import ProgramJudge
from mixdpo.judges.task import Temperature

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


def find_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that the settings name.

    Raises:
        InputError: they contradict each other, or there is no such model.
    """
    if settings.judge is None:
        raise InputError("no judge is named", hint="give --judge NAME")
    kind = settings.kind or ("endpoint" if settings.endpoint else _kind_of_model(settings.judge))
    if (kind == "endpoint") != (settings.endpoint is not None):
        raise InputError(
            "an endpoint needs a URL" if kind == "endpoint" else f"a judge of kind {kind} has no endpoint",
            hint="give --endpoint URL" if kind == "endpoint" else "leave out --endpoint or --judge-kind",
        )
    told = settings.chat_template_kwargs
    if settings.endpoint is not None:
        return LanguageJudge(EndpointModel(replace(settings.endpoint, chat_template_kwargs=told)))
    if kind == "program":
        if told is not None:
            raise InputError("a program has no chat template", hint="leave out --judge-chat-template-kwargs")
        return ProgramJudge(settings.judge)
    from mixdpo.models.model_settings import ModelSettings, check_is_model

    model = ModelSettings(name_or_path=settings.judge, chat_template_kwargs=told)
    check_is_model(settings.judge)
    if kind == "reward":
        from mixdpo.judges.reward_model import RewardJudge

        return RewardJudge(model, settings.batch_size)
    from mixdpo.generation.local_model import LocalModel

    return LanguageJudge(LocalModel(model, settings.batch_size))


def _kind_of_model(name: str) -> JudgeKind:
    from transformers import AutoConfig

    from mixdpo.models.loading import hub_arguments, loading
    from mixdpo.models.model_settings import ModelSettings, check_is_model

    settings = ModelSettings(name_or_path=name)
    check_is_model(name)
    try:
        with loading("judge", name):
            config = AutoConfig.from_pretrained(name, **hub_arguments(settings))
    except InputError as error:
        raise InputError(
            str(error), hint="a model behind an endpoint needs --endpoint URL, a program --judge-kind program"
        ) from error
    classifies = any(one.endswith("ForSequenceClassification") for one in config.architectures or [])
    return "reward" if classifies else "model"
