"""The options that say who judges, for every command with a judge."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.options import (
    FILE_OR_NAME,
    Command,
    given_options,
    parameter_name,
    refuse_options,
    sentence,
    settings_options,
)
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.judges.judge_settings import JudgeSettings

if TYPE_CHECKING:
    from mixdpo.judges.judge import Judge

_SAID: Final = ("model", "base_url", "chat_template_kwargs")
"""Settings of an endpoint that `--judge`, `--endpoint` and `--judge-chat-template-kwargs` say."""
_OF_ENDPOINTS: Final = tuple(field.name for field in fields(EndpointSettings) if field.name not in _SAID)


def judge_parameters(prefix: str) -> list[str]:
    """Return the names of the options of judges with a prefix, for `given_options` and `refuse_options`."""
    own = [field.name for field in fields(JudgeSettings) if field.name not in ("judge", "endpoint")]
    return ["judge", *(parameter_name(name, prefix) for name in ("url", *own, *_OF_ENDPOINTS))]


def judge_group(prefix: str, *more: str) -> tuple[str, list[str]]:
    """Return the group of a command's help that has all about judges but who they are, and more of its options."""
    told = ("judge", parameter_name("url", prefix))
    return "how the judge is asked", [name for name in (*judge_parameters(prefix), *more) if name not in told]


def judge_options_named(prefix: str) -> Callable[[Command], Command]:
    """Return what gives a command the options that say who judges; all but `--judge` begin with the prefix.

    `--judge` may be given again: the other options then hold for all of them. The command's argument `judges` is a
    function that returns the settings of each, in order, and refuses options that would have no effect.
    """

    def decorate(command: Command) -> Command:
        @click.option(
            "--judge",
            type=FILE_OR_NAME,
            multiple=True,
            help=sentence(JudgeSettings.__dataclass_fields__["judge"].metadata["help"]),
        )
        @settings_options(JudgeSettings, "judge_settings", leave_out=["judge", "endpoint"], prefix=prefix)
        @click.option(f"--{prefix}endpoint", parameter_name("url", prefix),
                      help="URL of an OpenAI-compatible endpoint, up to and with /v1.")  # fmt: skip
        @settings_options(EndpointSettings, "judge_endpoint", leave_out=_SAID, prefix=prefix)
        @functools.wraps(command)
        def with_judges(
            *arguments: Any, judge: tuple[str, ...], judge_settings: Callable[..., JudgeSettings],
            judge_endpoint: Callable[..., EndpointSettings], **given: Any,
        ) -> Any:  # fmt: skip
            url = given.pop(parameter_name("url", prefix))

            def judges() -> list[JudgeSettings]:
                if url is None:
                    refuse_options(
                        f"no effect without --{prefix}endpoint",
                        *(parameter_name(name, prefix) for name in _OF_ENDPOINTS),
                    )
                else:
                    reason = f"no effect with --{prefix}endpoint, which has --{prefix}concurrency"
                    refuse_options(reason, parameter_name("batch_size", prefix))
                return [
                    judge_settings(
                        judge=name, endpoint=None if url is None else judge_endpoint(model=name, base_url=url)
                    )
                    for name in judge
                ]

            return command(*arguments, judges=judges, **given)

        decorated: Command = with_judges
        return decorated

    return decorate


judge_options: Final = judge_options_named("")
"""Gives a command the options that say who judges, where no other options share their names."""


def found_judges(judges: Callable[[], list[JudgeSettings]]) -> list[Judge]:
    """Return the judges, and refuse what they would be asked in words where they are asked nothing."""
    from mixdpo.common.errors import InputError
    from mixdpo.judges.find_judge import find_judge

    found = [find_judge(settings) for settings in judges()]
    unread = given_options("judge_prompt", "max_tokens", "judge_max_tokens")
    for judge in found:
        if unread and not judge.in_words:
            raise InputError(
                f"the judge {judge.name} is asked nothing in words", hint=f"leave out {' and '.join(unread)}"
            )
    return found
