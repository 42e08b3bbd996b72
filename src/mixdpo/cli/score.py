"""The command `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of
from mixdpo.common.tables import percent_text, plain_console, results_table


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--metric", multiple=True, help="Difficulty metric; may be given several times. Default: the recipe's.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("scored.parquet"), show_default=True,
    help="The file of the pairs with their margins: .parquet, .jsonl, .json or .csv.",
)  # fmt: skip
@click.pass_obj
def score(
    overrides: dict[str, Any], data: str | None, config: Path | None, metric: tuple[str, ...], output: Path
) -> None:
    """Say how hard every pair of DATA (file, folder or hub id; default: the recipe's) is: larger margin, easier.

    On several GPUs: accelerate launch -m mixdpo score ...
    """
    recipe = recipe_of(overrides, config, data)
    recipe.metrics_to_score(metric)

    import numpy as np

    from mixdpo.common.processes import processes
    from mixdpo.data.arrays import float_column
    from mixdpo.recipe.runs import score_from_recipe

    pairs, report = score_from_recipe(recipe, metric, output)
    if processes().is_main_process:
        for line in report.lines():
            click.echo(line)
        headings = ("metric", "smallest", "10 %", "median", "90 %", "largest", "under 0")
        table = results_table(f"margins of {len(pairs):,} pairs", *headings)
        for column in (name for name in pairs.column_names if name.startswith("margin/")):
            margin = float_column(pairs, column)
            points = (f"{value:.3g}" for value in np.quantile(margin, [0, 0.1, 0.5, 0.9, 1]))
            table.add_row(column.removeprefix("margin/"), *points, percent_text((margin < 0).mean()))
        plain_console().print(table)
        click.echo(f"scored: {output}")
    processes().destroy_process_group()
