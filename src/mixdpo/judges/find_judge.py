"""Who judges: a language model behind an endpoint or on this machine, a reward model, or a program.

What loads models is imported when such a judge is wanted: PyTorch takes seconds, a program needs none of it.
"""

from __future__ import annotations

from dataclasses import replace

from mixdpo.common.errors import InputError
from mixdpo.generation.endpoint import EndpointModel
from mixdpo.judges.judge import Judge
from mixdpo.judges.judge_settings import JudgeKind, JudgeSettings
from mixdpo.judges.language_model import LanguageJudge
from mixdpo.judges.program import ProgramJudge
from mixdpo.judges.reward_endpoint import RewardEndpointJudge


def find_judge(settings: JudgeSettings) -> Judge:
    """Return the judge that the settings name.

    Raises:
        InputError: they contradict each other, or there is no such model.
    """
    if settings.judge is None:
        raise InputError("no judge is named", hint="give --judge NAME")
    kind = settings.kind or ("endpoint" if settings.endpoint else _kind_of_model(settings.judge))
    if kind != "reward" and (kind == "endpoint") != (settings.endpoint is not None):
        raise InputError(
            "an endpoint needs a URL" if kind == "endpoint" else f"a judge of kind {kind} has no endpoint",
            hint="give --endpoint URL" if kind == "endpoint" else "leave out --endpoint or --judge-kind",
        )
    if settings.temperature is not None and kind in ("reward", "program"):
        raise InputError(f"a judge of kind {kind} is asked nothing in words", hint="leave out --judge-temperature")
    told = settings.chat_template_kwargs
    if settings.endpoint is not None:
        called = replace(settings.endpoint, chat_template_kwargs=told)
        if kind == "reward":
            if called.token_limit != "max_tokens":
                raise InputError("a reward model writes nothing", hint="leave out --token-limit")
            return RewardEndpointJudge(called)
        return LanguageJudge(EndpointModel(called), settings.temperature)
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

    return LanguageJudge(LocalModel(model, settings.batch_size), settings.temperature)


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
            str(error), hint="a model behind an endpoint needs its URL, a program --judge-kind program"
        ) from error
    classifies = any(one.endswith("ForSequenceClassification") for one in config.architectures or [])
    return "reward" if classifies else "model"
