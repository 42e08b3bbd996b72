"""The command `generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixdpo.cli.model_options import model_options
from mixdpo.cli.options import FILE_OR_NAME, settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.common.tables import percent_text, plain_console, results_table, value_text
from mixdpo.generation.generation_settings import EndpointSettings, GenerationSettings

if TYPE_CHECKING:
    from mixdpo.generation.find_model import Models


@click.command("generate")
@click.argument("prompts", type=FILE_OR_NAME)
@model_options(required=True)
@click.option("--split", default="train", show_default=True,
              help="Split of PROMPTS, or a slice such as train[:100].")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Answer the first prompts only.")
@settings_options(GenerationSettings, "settings")
@click.option("--dry-run", is_flag=True, help="Say how much there is to read and write, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="Answers: .jsonl, or .json for one list. A report is written beside them.")  # fmt: skip
def generate(
    prompts: str, models: Callable[[], Models], batch_size: int | None, split: str, limit: int | None,
    settings: GenerationSettings, dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Let a model answer PROMPTS (file, folder or hub id) in its chat template.

    A run that was stopped goes on where it was when it is started again. Of an endpoint, finished answers are kept
    beside OUTPUT until all are there.
    """
    from mixdpo.common.files import unfinished
    from mixdpo.common.progress import pairs_bar
    from mixdpo.generation.answer_prompts import answer_prompts, notes
    from mixdpo.generation.find_model import find_model
    from mixdpo.generation.generate import planned_requests
    from mixdpo.generation.output_files import check_writable, report_file
    from mixdpo.generation.prompts import read_prompts

    quiet_libraries()
    check_writable(output)
    finished = unfinished(output)
    named = models()
    called = [one.model for one in named.values() if isinstance(one, EndpointSettings)]
    wanted = read_prompts(prompts, split, limit)
    requests = planned_requests(wanted, settings)
    if dry_run or called:
        for name, one in named.items():
            of_model = f" by {name}" if len(named) > 1 else ""
            click.echo(f"to do{of_model}: {find_model(one, finished, batch_size).estimate(requests)}")
    if called and _holds_answers(finished):
        click.echo(
            f"answers of an earlier run are in {finished}; remove it if {' or '.join(called)} has become "
            f"another model since"
        )
    for line in notes(wanted, settings, len(named)):
        click.echo(line)
    if dry_run:
        return
    reports = answer_prompts(
        wanted, ((name, find_model(one, finished, batch_size)) for name, one in named.items()), settings, output,
        lambda name: pairs_bar(name, "answers"),
    )  # fmt: skip
    for name, report in reports.items():
        _show(name, report)
    click.echo(f"answers: {output}; report: {report_file(output)}")


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
    table.add_row("not ended by the model", percent_text(report["unfinished_share"]))
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
