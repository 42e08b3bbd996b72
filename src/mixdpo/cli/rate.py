"""The command `rate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mixdpo.cli.judge_options import found_judges, judge_options
from mixdpo.cli.options import settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.common.tables import plain_console, results_table, value_text
from mixdpo.pairs.rating_settings import RatingSettings

if TYPE_CHECKING:
    from mixdpo.judges.judge_settings import JudgeSettings


_MISSING: Final = ("unread_verdicts", "off_scale")
_COUNTS: Final = {
    "empty": "empty answers, which no judge is asked about and which have no score",
    "without_score": "answers without a score: a judge gave them no rating that can be read",
    "prompts_with_one_answer": "prompts with one answer, which give no pair",
    "prompts_all_equal": "prompts whose answers all have one score, which give ties only",
}
"""What is said of counts in the report."""


@click.command("rate")
@click.argument("answers", type=click.Path(path_type=Path))
@judge_options
@settings_options(RatingSettings, "settings")
@click.option("--dry-run", is_flag=True, help="Say what rating would take, and stop.")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True,
              help="The answers with their ratings, .jsonl. A report is written beside them.")  # fmt: skip
def rate(
    answers: Path, judges: Callable[[], list[JudgeSettings]], settings: RatingSettings, dry_run: bool, output: Path
) -> None:
    """Let judges rate the answers of the file ANSWERS, as mixdpo generate --samples writes it.

    A file that was rated before keeps its ratings and gets further ones. A run that was stopped goes on where it was
    when it is started again.
    """
    if not click.get_current_context().params["judge"]:
        raise click.UsageError("Give --judge NAME: a name at --endpoint URL, a reward model, or a program.")
    from mixdpo.common.files import check_output, write_json
    from mixdpo.common.progress import pairs_bar
    from mixdpo.generation.output_files import report_file
    from mixdpo.pairs.answered import read_answered, write_answered
    from mixdpo.pairs.rate import estimates, rate
    from mixdpo.pairs.rating_report import earlier_judges

    quiet_libraries()
    check_output(output)
    found = found_judges(judges)
    prompts = read_answered(answers)
    for name, line in estimates(prompts, found, settings).items():
        click.echo(f"{name}: {line}")
    if dry_run:
        return
    rated = rate(prompts, found, settings, lambda name: pairs_bar(name, "verdicts"), earlier_judges(answers))
    write_answered(output, rated.prompts)
    write_json(report_file(output), rated.report)
    _show(rated.report)
    click.echo(f"rated: {output}; report: {report_file(output)}")


def _show(report: dict[str, Any]) -> None:
    table = results_table(
        f"ratings of {report['answers']:,} answers to {report['prompts']:,} prompts",
        "judge", "mean", "deviation", "verdicts", "failed", "unread", "off scale", "first shown wins",
    )  # fmt: skip
    for name, one in report["judges"].items():
        failed = sum(one["failed_calls"].values()) if "failed_calls" in one else None
        bias = (one.get("position_bias") or {}).get("first_shown")
        table.add_row(
            name,
            *(value_text(one["rating"].get(key)) for key in ("mean", "deviation")),
            *(value_text(count, 0) for count in (one.get("calls"), failed, *map(one.get, _MISSING))),
            "-" if bias is None else f"{bias['estimate']:.0%}",
        )
    plain_console().print(table)
    click.echo(f"score: {report['score']}")
    for name, words in _COUNTS.items():
        if report[name]:
            click.echo(f"{report[name]:,} {words}", err=True)
