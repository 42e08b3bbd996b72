"""The command `rate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mixdpo.cli.judge_options import found_judges, judge_group, judge_options
from mixdpo.cli.options import FILE_OR_NAME, refuse_options, settings_options
from mixdpo.cli.rate_against import WITH_AGAINST, against_options, rate_pairs_against
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.cli.topic_help import CommandOfGroups
from mixdpo.pairs.rating_settings import RatingSettings

if TYPE_CHECKING:
    from mixdpo.generation.generation_settings import GenerationSettings
    from mixdpo.judges.judge_settings import JudgeSettings
    from mixdpo.pairs.against_settings import AgainstSettings


@click.command(
    "rate",
    cls=CommandOfGroups,
    groups={
        "judge": judge_group(
            "", *(field.name for field in fields(RatingSettings) if field.name not in ("mode", "seed"))
        ),
        "against": ("how policies' own answers are rated with pairs", WITH_AGAINST),
    },
)
@click.argument("answers", type=FILE_OR_NAME)
@judge_options
@settings_options(RatingSettings, "settings")
@against_options
@click.option("--dry-run", is_flag=True, help="Say what rating would take, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="Rated answers: .jsonl, or .json for one list; pairs: also .parquet or .csv. "
                   "A report is written beside them.")  # fmt: skip
def rate(
    answers: str, judges: Callable[[], list[JudgeSettings]], settings: RatingSettings, against: AgainstSettings,
    generation: Callable[..., GenerationSettings], dry_run: bool, output: Path,
) -> None:  # fmt: skip
    """Let judges rate the answers of the file ANSWERS, as mixdpo generate --samples writes it.

    A file that was rated before keeps its ratings and gets further ones. With --against, ANSWERS are pairs (file,
    folder or hub id): chosen and rejected answers are rated together with policies' own to the same prompts, and the
    pairs are written with how they compare. A run that was stopped goes on where it was when it is started again.
    """
    if not click.get_current_context().params["judge"]:
        raise click.UsageError("Give --judge NAME: a name at --endpoint URL, a reward model, or a program.")
    from mixdpo.common.files import write_json
    from mixdpo.common.progress import pairs_bar
    from mixdpo.generation.output_files import check_writable, report_file
    from mixdpo.pairs.answered import read_answered, write_answered
    from mixdpo.pairs.rate import estimates, rate
    from mixdpo.pairs.rating_report import earlier_judges, rating_lines

    quiet_libraries()
    if against.against:
        rate_pairs_against(answers, judges, settings, against, generation, dry_run, output)
        return
    refuse_options("no effect without --against", *WITH_AGAINST)
    check_writable(output)
    found = found_judges(judges)
    prompts = read_answered(answers)
    for name, line in estimates(prompts, found, settings).items():
        click.echo(f"{name}: {line}")
    if dry_run:
        return
    rated = rate(prompts, found, settings, lambda name: pairs_bar(name, "verdicts"), earlier_judges(Path(answers)))
    write_answered(output, rated.prompts)
    write_json(report_file(output), rated.report)
    for line in rating_lines(rated.report):
        click.echo(line)
    click.echo(f"rated: {output}; report: {report_file(output)}")
