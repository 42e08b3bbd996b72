"""The command `versus`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.judge_options import found_judges, judge_group, judge_options_named
from mixdpo.cli.model_options import ANSWERING_GROUP
from mixdpo.cli.options import FILE_OR_NAME, YamlMapping, refuse_options, sentence, settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.cli.topic_help import CommandOfGroups
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import print_table
from mixdpo.data.data_settings import TEMPLATE_DATE_HELP, TEMPLATE_KWARGS_HELP
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings
from mixdpo.models.model_settings import ModelSettings

if TYPE_CHECKING:
    from mixdpo.judges.judge_settings import JudgeSettings

_SAID: Final = ("model", "base_url", "concurrency", "chat_template_kwargs")
"""Settings of an endpoint that A and B and other options say."""
_OF_ENDPOINTS: Final = tuple(field.name for field in fields(EndpointSettings) if field.name not in _SAID)


@click.command(
    cls=CommandOfGroups,
    groups={"answers": ANSWERING_GROUP, "judge": judge_group("judge-", "judge_prompt", "judge_max_tokens")},
)
@click.argument("a", type=FILE_OR_NAME)
@click.argument("b", type=FILE_OR_NAME)
@click.option(
    "--prompts",
    type=FILE_OR_NAME,
    help="What models answer: a file, folder or hub id. Of two files of answers, texts by id.",
)
@click.option(
    "--split", default="train", show_default=True, help="Split of the prompts, or a slice such as train[:100]."
)
@click.option("--limit", type=click.IntRange(min=1), help="Take the first prompts only.")
@judge_options_named("judge-")
@click.option("--judge-prompt", type=click.Path(path_type=Path),
              help="What a language model is asked; default: pairwise.txt of the package.")  # fmt: skip
@click.option("--judge-max-tokens", type=click.IntRange(min=1), help="Longest judgement; default: 1,024 tokens.")
@settings_options(GenerationSettings, "generation", leave_out=["samples"])
@settings_options(EndpointSettings, "endpoint", leave_out=_SAID)
@click.option("--chat-template-kwargs", type=YamlMapping(), help=sentence(TEMPLATE_KWARGS_HELP))
@click.option("--template-date", help=sentence(TEMPLATE_DATE_HELP))
@click.option("--batch-size", type=click.IntRange(min=1), help="Answers at once; default: 32, of an endpoint 16.")
@click.option("--dry-run", is_flag=True, help="Say what it would take and what it could show, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("versus"), show_default=True,
              help="Folder for answers, verdicts, the result and a page to read them.")  # fmt: skip
def versus(
    a: str, b: str, prompts: str | None, split: str, limit: int | None, judges: Callable[[], list[JudgeSettings]],
    judge_prompt: Path | None, judge_max_tokens: int | None, generation: Callable[..., GenerationSettings],
    endpoint: Callable[..., EndpointSettings], chat_template_kwargs: dict[str, Any] | None, template_date: str | None,
    batch_size: int | None, dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Is B better than A? Both answer the prompts, a judge compares the answers in both orders.

    A and B are each [NAME=]SOURCE: a file of answers; a folder or hub id of a model; the folder of an adapter or of a
    run; or MODEL@URL, a model behind an OpenAI-compatible endpoint. Answers and verdicts are cached: a command that
    was stopped is given again.
    """
    from mixdpo.common.errors import InputError
    from mixdpo.evaluation.contenders import Answering, find_contender
    from mixdpo.evaluation.versus import RESULT, Versus, compare_two, versus_table
    from mixdpo.generation.prompts import read_prompts

    named = click.get_current_context().params["judge"]
    if not named:
        raise click.UsageError(
            "Say who judges: --judge NAME, with --judge-endpoint URL where it is behind an endpoint."
        )
    if len(named) > 1:
        raise click.UsageError("Give --judge once; for another judge give the command again with another --output.")
    quiet_libraries()
    check_output_folder(output)
    told: dict[str, Any] = {"chat_template_kwargs": chat_template_kwargs}
    at_once = {} if batch_size is None else {"concurrency": batch_size}
    answering = Answering(
        generation=generation(samples=1),
        endpoint=lambda **named: endpoint(**named, **told, **at_once),
        local=lambda **named: ModelSettings(**named, template_date=template_date, **told),
        batch_size=batch_size,
    )
    first, second = find_contender(a, answering), find_contender(b, answering)
    answering_now = [one.name for one in (first, second) if not isinstance(one.source, Path)]
    _refuse_without_effect([one.source for one in (first, second)])
    if answering_now and prompts is None:
        raise InputError(f"nothing says what {answering_now[0]} is to answer", hint="give the prompts with --prompts")
    (judge,) = found_judges(judges)
    asked = Versus(
        first=first,
        second=second,
        prompts=read_prompts(prompts, split, limit) if answering_now and prompts is not None else (),
        questions=Path(prompts) if prompts is not None and not answering_now else None,
        judge=judge,
        judge_prompt=judge_prompt,
        max_tokens=judge_max_tokens,
        answering=answering,
        limit=limit,
    )
    for line in asked.planned():
        click.echo(line)
    if dry_run:
        return
    result = compare_two(asked, output)
    click.echo()
    click.echo(result["sentence"])
    for line in result["warnings"]:
        click.echo(f"note: {line}")
    click.echo()
    print_table(versus_table(result))
    from mixdpo.evaluation.compare.collect import collect  # takes seconds, for which nobody should wait
    from mixdpo.evaluation.compare.export import save_page

    page = save_page(collect([output / RESULT]), output)
    click.echo(f"answers and verdicts to read: {page}; result: {output / RESULT}")


def _refuse_without_effect(sources: list[Any]) -> None:
    """Refuse options about models that answer where there are none."""
    if not any(isinstance(one, EndpointSettings) for one in sources):
        refuse_options("no effect without a MODEL@URL", *_OF_ENDPOINTS)
    if not any(isinstance(one, ModelSettings) for one in sources):
        refuse_options("no effect without a model on this machine", "template_date")
    if all(isinstance(one, Path) for one in sources):
        names = (field.name for field in fields(GenerationSettings) if field.name != "samples")
        refuse_options("no effect on files of answers", *names, "split", "chat_template_kwargs", "batch_size")
