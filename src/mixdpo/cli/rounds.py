"""The command `rounds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, recipe_of
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import print_table


@click.command(cls=CommandWithSettings)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--rounds", "count", type=click.IntRange(min=1), required=True, help="Rounds there are at the end.")
@click.option("--output", "-o", type=click.Path(path_type=Path),
              help="Folder of the rounds; default: train.output_dir, else runs/rounds.")  # fmt: skip
@click.pass_obj
def rounds(overrides: dict[str, Any], recipe: Path, count: int, output: Path | None) -> None:
    """Train in rounds: pairs of the newest model's own answers, a plan, training, and a look at held-out prompts.

    RECIPE is a recipe (YAML, or mixdpo:NAME) with the section pairs. Rounds that were stopped go on where they were
    when they are started again; with more --rounds, further ones follow.
    """
    read = recipe_of(overrides, recipe, None)
    folder = output or Path(read.train.get("output_dir") or "runs/rounds")
    check_output_folder(folder)

    from mixdpo.recipe.rounds import run_rounds
    from mixdpo.recipe.rounds_results import rounds_table

    results = run_rounds(read, count, folder)
    print_table(rounds_table(results))
    for one in results:
        if left_out := one.held_out.left_out:
            compared = f"{one.held_out.compared:,} of {one.held_out.compared + left_out:,} held-out prompts"
            click.echo(f"note: round {one.number}: compared on {compared}; the others lack an answer or a verdict")
        for sign in one.warnings:
            click.echo(f"note: round {one.number}: {sign}")
    click.echo(f"rounds: {folder} (rounds.json, rounds.png; model in {results[-1].model})")
