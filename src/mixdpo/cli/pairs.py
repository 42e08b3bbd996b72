"""The command `pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.options import settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.pairs.selection_settings import SelectionSettings


@click.command("pairs")
@click.argument("answers")
@settings_options(SelectionSettings, "selection")
@click.option("--output", "-o", type=click.Path(path_type=Path),
              help="Pairs: .parquet, .jsonl, .json or .csv. Left out: the table alone.")  # fmt: skip
def pairs(answers: str, selection: Any, output: Path | None) -> None:
    """Make pairs of several rated answers to each prompt, ANSWERS, and show what every rule makes of them first."""
    from mixdpo.common.tables import as_text
    from mixdpo.data.pair_files import check_pairs_output
    from mixdpo.pairs.answered import read_answered
    from mixdpo.pairs.make_pairs import make_pairs, report_lines, rules_table, save_made_pairs

    quiet_libraries()
    if output is not None:
        check_pairs_output(output)
    made = make_pairs(read_answered(answers), selection)
    for line in report_lines(made.report):
        click.echo(line)
    click.echo(as_text(rules_table(made.report)))
    if output is not None:
        report = save_made_pairs(made, output)
        click.echo(f"pairs: {output}; report: {report}")
