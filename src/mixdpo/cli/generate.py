"""The command `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.options import YamlMapping, refuse_options, sentence, settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.common.tables import plain_console, results_table, value_text
from mixdpo.data.data_settings import TEMPLATE_DATE_HELP, TEMPLATE_KWARGS_HELP
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings

if TYPE_CHECKING:
    from mixdpo.generation.chat_model import ChatModel

_GIVEN = ("model", "base_url", "concurrency", "chat_template_kwargs")
"""Settings of an endpoint that options of the command say: `--model`, `--endpoint` and `--batch-size`."""
_OF_ENDPOINTS = [field.name for field in fields(EndpointSettings) if field.name not in _GIVEN]


@click.command("generate")
@click.argument("prompts")
@click.option("--model", "models", required=True, multiple=True, metavar="[NAME=]MODEL",
              help="Folder or hub id; with --endpoint the model's name there. May be given again.")  # fmt: skip
@click.option("--adapter", help="Folder or hub id of a trained adapter on the model.")
@click.option("--endpoint", "url", help="URL of an OpenAI-compatible endpoint (vLLM, a provider), up to and with /v1.")
@settings_options(EndpointSettings, "endpoint", leave_out=_GIVEN)
@click.option("--split", default="train", show_default=True,
              help="Split of PROMPTS, or a slice such as train[:100].")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first prompts only.")
@settings_options(GenerationSettings, "settings")
@click.option("--chat-template-kwargs", type=YamlMapping(), help=sentence(TEMPLATE_KWARGS_HELP))
@click.option("--template-date", help=sentence(TEMPLATE_DATE_HELP))
@click.option("--batch-size", type=click.IntRange(min=1), help="Answers at once; default: 32, of an endpoint 16.")
@click.option("--dry-run", is_flag=True, help="Say how much there is to read and write, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="Answers: .jsonl, or .json for one list. A report is written beside them.")  # fmt: skip
def generate(
    prompts: str, models: tuple[str, ...], adapter: str | None, url: str | None, endpoint: Any, split: str,
    limit: int | None, settings: GenerationSettings, chat_template_kwargs: dict[str, Any] | None,
    template_date: str | None, batch_size: int | None, dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Let a model answer PROMPTS (file, folder or hub id) in its chat template.

    A run that was stopped goes on where it was when it is started again. Of an endpoint, finished answers are kept
    beside OUTPUT until all are there.
    """
    from mixdpo.common.files import unfinished
    from mixdpo.common.progress import pairs_bar
    from mixdpo.generation.answer_prompts import answer_prompts, notes
    from mixdpo.generation.generate import planned_requests
    from mixdpo.generation.output_files import check_writable, report_file
    from mixdpo.generation.prompts import read_prompts

    quiet_libraries()
    check_writable(output)
    finished = unfinished(output)
    if url is None:
        refuse_options("no effect without --endpoint", *_OF_ENDPOINTS)
    else:
        refuse_options("of a local model; an endpoint's name of an adapter is a --model", "adapter")
        refuse_options("of a local model; an endpoint applies the chat template itself", "template_date")
    if len(models) > 1:
        refuse_options("of a single --model", "adapter")

    def chat_model(model: str) -> ChatModel:
        if url is None:
            told = {"chat_template_kwargs": chat_template_kwargs, "template_date": template_date}
            return _local_model(batch_size, name_or_path=model, adapter=adapter, **told)
        at_once = {} if batch_size is None else {"concurrency": batch_size}
        called = endpoint(model=model, base_url=url, chat_template_kwargs=chat_template_kwargs, **at_once)
        return _endpoint_model(called, finished)

    named = _named(models, chat_model)
    wanted = read_prompts(prompts, split, limit)
    requests = planned_requests(wanted, settings)
    if dry_run or url is not None:
        for name, model in named.items():
            of_model = f" by {name}" if len(named) > 1 else ""
            click.echo(f"to do{of_model}: {chat_model(model).estimate(requests)}")
    if url is not None and _holds_answers(finished):
        click.echo(
            f"answers of an earlier run are in {finished}; remove it if {' or '.join(named.values())} has become "
            f"another model since"
        )
    for line in notes(wanted, settings, len(named)):
        click.echo(line)
    if dry_run:
        return
    reports = answer_prompts(
        wanted, ((name, chat_model(model)) for name, model in named.items()), settings, output,
        lambda name: pairs_bar(name, "answers"),
    )  # fmt: skip
    for name, report in reports.items():
        _show(name, report)
    click.echo(f"answers: {output}; report: {report_file(output)}")


def _named(models: Sequence[str], chat_model: Callable[[str], ChatModel]) -> dict[str, str]:
    """Return the models by the names that stand before a `=`, else by their own."""
    from mixdpo.common.errors import InputError

    named: dict[str, str] = {}
    for given in models:
        name, equals, model = given.partition("=")
        if not equals or Path(given).exists():
            name, model = chat_model(given).name, given
        if name in named:
            raise InputError(f"a second model called {name}", hint="tell them apart: --model NAME=MODEL")
        named[name] = model
    return named


def _local_model(batch_size: int | None, **model: Any) -> ChatModel:
    from mixdpo.generation.local_model import LocalModel
    from mixdpo.models.model_settings import ModelSettings

    at_once = {} if batch_size is None else {"batch_size": batch_size}
    return LocalModel(ModelSettings(**model), **at_once)


def _endpoint_model(settings: EndpointSettings, finished: Path) -> ChatModel:
    from mixdpo.generation.endpoint import EndpointModel

    return EndpointModel(settings, finished)


def _holds_answers(folder: Path) -> bool:
    from mixdpo.generation.reply_cache import reply_cache

    if not folder.is_dir():  # a dry run makes none
        return False
    with reply_cache(folder) as cache:
        return cache.count() > 0


def _show(name: str, report: dict[str, Any]) -> None:
    table = results_table(f"answers of {name}", "what", "value")
    table.show_header = False
    table.add_row("answered", f"{report['answered']:,} of {report['answers']:,}")
    table.add_row("not ended by the model", f"{report['unfinished_share']:.1%}")
    if report["empty"]:
        table.add_row("empty", f"{report['empty']:,}")
    if "repeated" in report:
        table.add_row("the same as an earlier answer to the prompt", f"{report['repeated']:,}")
        table.add_row("prompts whose answers are all the same", f"{report['prompts_all_alike']:,}")
    if thought := report["reasoning"]["answers"]:
        tokens = value_text((report["reasoning"]["tokens"] or {}).get("mean"), 0)
        table.add_row("with reasoning; its tokens, mean", f"{thought:,}; {tokens}")
    for unit in ("tokens", "characters"):
        spread = report[unit] or {}
        mean, largest = (value_text(spread.get(key), 0) for key in ("mean", "largest"))
        table.add_row(f"{unit}, mean and longest", f"{mean}, {largest}")
    plain_console().print(table)
    for failure, count in report["failures"].items():
        click.echo(f"{count:,} without a reply: {failure}", err=True)
    for why, count in report["without_answer"].items():
        click.echo(f"{count:,} without an answer: {why}", err=True)
    for flag in report["flags"]:
        click.echo(f"note: {flag}")
