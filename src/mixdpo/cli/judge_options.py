"""The options that say who judges, for every command with a judge."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.options import Command, given_options, refuse_options, sentence, settings_options
from mixdpo.generation.generation_settings import EndpointSettings
from mixdpo.judges.judge_settings import JudgeSettings

if TYPE_CHECKING:
    from mixdpo.judges.judge import Judge

_SAID: Final = ("model", "base_url", "chat_template_kwargs")
"""Settings of an endpoint that `--judge`, `--endpoint` and `--judge-chat-template-kwargs` say."""
_OF_ENDPOINTS: Final = tuple(field.name for field in fields(EndpointSettings) if field.name not in _SAID)


def judge_options(command: Command) -> Command:
    """Give a command the options that say who judges.

    `--judge` may be given again: the other options then hold for all of them. The command's argument `judges` is a
    function that returns the settings of each, in order, and refuses options that would have no effect.
    """

    @click.option(
        "--judge", multiple=True, help=sentence(JudgeSettings.__dataclass_fields__["judge"].metadata["help"])
    )
    @settings_options(JudgeSettings, "judge_settings", leave_out=["judge", "endpoint"])
    @click.option("--endpoint", "url", help="URL of an OpenAI-compatible endpoint, up to and with /v1.")
    @settings_options(EndpointSettings, "endpoint", leave_out=_SAID)
    @functools.wraps(command)
    def with_judges(
        *arguments: Any, judge: tuple[str, ...], judge_settings: Callable[..., JudgeSettings], url: str | None,
        endpoint: Callable[..., EndpointSettings], **given: Any,
    ) -> Any:  # fmt: skip
        def judges() -> list[JudgeSettings]:
            if url is None:
                refuse_options("no effect without --endpoint", *_OF_ENDPOINTS)
            else:
                refuse_options("no effect with --endpoint, which has --concurrency", "batch_size")
            return [
                judge_settings(judge=name, endpoint=None if url is None else endpoint(model=name, base_url=url))
                for name in judge
            ]

        return command(*arguments, judges=judges, **given)

    decorated: Command = with_judges
    return decorated


def found_judges(judges: Callable[[], list[JudgeSettings]]) -> list[Judge]:
    """Return the judges, and refuse what they would be asked in words where they are asked nothing."""
    from mixdpo.common.errors import InputError
    from mixdpo.judges.find_judge import find_judge

    found = [find_judge(settings) for settings in judges()]
    unread = given_options("judge_prompt", "max_tokens")
    for judge in found:
        if unread and not judge.in_words:
            raise InputError(
                f"the judge {judge.name} is asked nothing in words", hint=f"leave out {' and '.join(unread)}"
            )
    return found
