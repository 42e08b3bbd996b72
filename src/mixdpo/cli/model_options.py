"""The options that say who answers, for every command with a model that writes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from mixdpo.cli.options import FILE_OR_NAME, Command, YamlMapping, refuse_options, sentence, settings_options
from mixdpo.data.data_settings import TEMPLATE_DATE_HELP, TEMPLATE_KWARGS_HELP
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.models.model_settings import ModelSettings, model_name

_SAID: Final = ("model", "base_url", "concurrency", "chat_template_kwargs")
"""Settings of an endpoint that options of the command say: `--model`, `--endpoint` and `--batch-size`."""
_OF_ENDPOINTS: Final = tuple(field.name for field in fields(EndpointSettings) if field.name not in _SAID)
_OF_LOCAL: Final = {
    "adapter": "of a local model; an endpoint's name of an adapter is a --model",
    "template_date": "of a local model; an endpoint applies the chat template itself",
}
MODEL_OPTIONS: Final = (
    *("models", "adapter", "url", "chat_template_kwargs", "template_date", "batch_size", *_OF_ENDPOINTS),
)
"""Names of the options."""
ANSWERING_GROUP: Final = (
    "how models answer",
    [name for name in MODEL_OPTIONS if name not in ("models", "adapter", "url")]
    + [field.name for field in fields(GenerationSettings) if field.name not in ("samples", "seed")],
)
"""The group of a command's help that has all about the models that answer but which they are."""


def model_options(*, required: bool) -> Callable[[Command], Command]:
    """Give a command the options that say who answers.

    The command's argument `models` is a function that returns the settings of each model by its name, and refuses
    options that would have no effect; `batch_size` is that of models on this machine, None where it is not given.
    """

    def decorate(command: Command) -> Command:
        @click.option(
            "--model", "models", type=FILE_OR_NAME, required=required, multiple=True, metavar="[NAME=]MODEL",
            help="Folder or hub id; with --endpoint the model's name there. May be given again.",
        )  # fmt: skip
        @click.option("--adapter", type=FILE_OR_NAME, help="Folder or hub id of a trained adapter on the model.")
        @click.option("--endpoint", "url",
                      help="URL of an OpenAI-compatible endpoint (vLLM, a provider), up to and with /v1.")  # fmt: skip
        @settings_options(EndpointSettings, "endpoint", leave_out=_SAID)
        @click.option("--chat-template-kwargs", type=YamlMapping(), help=sentence(TEMPLATE_KWARGS_HELP))
        @click.option("--template-date", help=sentence(TEMPLATE_DATE_HELP))
        @click.option("--batch-size", type=click.IntRange(min=1),
                      help="Answers at once; default: 32, of an endpoint 16.")  # fmt: skip
        @functools.wraps(command)
        def with_models(
            *arguments: Any, models: tuple[str, ...], adapter: str | None, url: str | None,
            endpoint: Callable[..., EndpointSettings], chat_template_kwargs: dict[str, Any] | None,
            template_date: str | None, batch_size: int | None, **given: Any,
        ) -> Any:  # fmt: skip
            told: dict[str, Any] = {"chat_template_kwargs": chat_template_kwargs}
            at_once = {} if batch_size is None else {"concurrency": batch_size}

            def settings(model: str) -> ModelSettings | EndpointSettings:
                if url is not None:
                    return endpoint(model=model, base_url=url, **told, **at_once)
                return ModelSettings(name_or_path=model, adapter=adapter, template_date=template_date, **told)

            def named() -> dict[str, ModelSettings | EndpointSettings]:
                if url is None:
                    refuse_options("no effect without --endpoint", *_OF_ENDPOINTS)
                for name, reason in _OF_LOCAL.items() if url is not None else ():
                    refuse_options(reason, name)
                if len(models) > 1:
                    refuse_options("of a single --model", "adapter")
                return _by_name(models, settings)

            return command(*arguments, models=named, batch_size=batch_size, **given)

        decorated: Command = with_models
        return decorated

    return decorate


def _own_name(settings: ModelSettings | EndpointSettings) -> str:
    if isinstance(settings, EndpointSettings):
        return settings.model
    return model_name(settings.adapter or settings.name_or_path)


def _by_name(
    models: Sequence[str], settings: Callable[[str], ModelSettings | EndpointSettings]
) -> dict[str, ModelSettings | EndpointSettings]:
    """Return the settings of models by the names that stand before a `=`, else by their own."""
    from mixdpo.common.errors import InputError

    named: dict[str, ModelSettings | EndpointSettings] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals or Path(given).exists():
            model = given
            name = _own_name(settings(given))
        if name in named:
            raise InputError(f"a second model called {name}", hint="tell them apart: --model NAME=MODEL")
        named[name] = settings(model)
    return named
