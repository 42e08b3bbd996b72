"""The command `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option(
    "--report", type=click.Path(path_type=Path), default=Path("report"), show_default=True,
    help="Folder that `mixdpo audit` wrote for the same DATA.",
)  # fmt: skip
@click.option(
    "--apply", "findings", default="advised", show_default=True,
    help="Findings to deal with, separated by commas; advised: all that the report advises.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("cleaned.parquet"), show_default=True,
    help="The cleaned pairs (.parquet, .jsonl, .json, .csv); the log of all rows is written beside it.",
)  # fmt: skip
@click.pass_obj
def clean(
    overrides: dict[str, Any], data: str | None, config: Path | None, report: Path, findings: str, output: Path
) -> None:
    """Apply findings of an audit to DATA: drop flagged pairs, or flip their labels.

    The same command writes the same file again; over the result of other findings it writes nothing.
    """
    settings = recipe_of(overrides, config, data).required("data")

    from mixdpo.auditing.audit_data import load_for_audit
    from mixdpo.auditing.clean import clean as clean_pairs
    from mixdpo.auditing.clean import findings_of, findings_to_apply, save_cleaned
    from mixdpo.auditing.repairs import counted_pairs, in_order, remaining_lines
    from mixdpo.data.pair_files import check_pairs_output

    check_pairs_output(output)
    pairs, load_report = load_for_audit(settings, keep_columns=True)
    for line in load_report.lines():
        click.echo(line)
    apply = findings_to_apply(findings, report)
    left, log = clean_pairs(pairs, report, apply)
    log_file = save_cleaned(left, log, output)
    numbers = {(action, name): number for action, name, number in log.group_by("action", "finding").len().iter_rows()}
    for name in (*in_order(apply), None):
        for action in ("flipped", "dropped", "kept"):
            if number := numbers.get((action, name)):
                click.echo(f"{action} {counted_pairs(number)}" + (f": {name}" if name else " as they are"))
    for line in remaining_lines([finding for finding in findings_of(report) if finding["name"] not in apply]):
        click.echo(line)
    click.echo(f"pairs: {output} ({len(left):,} of {len(pairs):,}); log: {log_file}")
