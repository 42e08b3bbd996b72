"""The command `tokens`."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mixdpo.cli.options import refuse_options
from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="Show so many pairs, the first.")
@click.option(
    "--row", type=click.IntRange(1), multiple=True,
    help="Show the pair of this row of its file, from 1; may be given again.",
)  # fmt: skip
@click.pass_obj
def tokens(overrides: dict[str, Any], data: str | None, config: Path | None, rows: int, row: tuple[int, ...]) -> None:
    """Show pairs of DATA (file, folder or hub id; default: the recipe's) as the model's tokens.

    Which of them are trained stands in the margin, and below how often something happened in all of DATA. Needs the
    model's tokenizer only.
    """
    if row:
        refuse_options("--row says which pairs to show", "rows")
    recipe = recipe_of(overrides, config, data)
    source, model, settings = recipe.required("data"), recipe.required("model"), recipe.token_settings()

    from mixdpo.cli.token_lines import print_pair
    from mixdpo.data.token_view import pair_views, places_of
    from mixdpo.data.tokenize import tokens_of
    from mixdpo.difficulty.scored_pairs import load_pairs_with_report
    from mixdpo.models.loading import load_tokenizer

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # encodings such as cp1252 lack most of what texts hold
    pairs, load_report = load_pairs_with_report(source)
    for line in load_report.lines():
        click.echo(line)
    click.echo()
    places = places_of(pairs, row) if row else range(min(rows, len(pairs)))
    tokenizer = load_tokenizer(model)
    console = Console()
    for pair in pair_views(pairs, places, tokenizer, settings):
        print_pair(console, pair)
    _, report = tokens_of(pairs, tokenizer, settings)
    click.echo(report.lines()[0])
    alarms = report.alarms()
    for name in (name for name, count in report.counts.items() if count):
        click.echo(f"{'warning: ' if name in alarms else ''}{name}: {report.line(name)}")
