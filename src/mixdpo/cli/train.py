"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of
from mixdpo.common.tables import plain_console


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.option("--output", "-o", type=click.Path(), help="Folder of the run; default: train.output_dir.")
@click.option("--resume", is_flag=True, help="Continue the run in that folder from its last complete checkpoint.")
@click.pass_obj
def train(overrides: dict[str, Any], data: str | None, config: Path | None, output: str | None, resume: bool) -> None:
    """Train a model on DATA (file, folder or hub id; default: the recipe's) by a plan.

    On several GPUs: accelerate launch -m mixdpo train ...
    """
    recipe = recipe_of(overrides, config, data)

    from mixdpo.common.processes import processes
    from mixdpo.recipe.runs import train_from_recipe
    from mixdpo.training.run_result import final_table

    run = train_from_recipe(recipe, output, resume)
    if processes().is_main_process:
        if any("loss" in line for line in run.metrics):
            plain_console().print(final_table(run.metrics))
        click.echo(f"run: {run.folder} (model in {run.folder / 'model'}, figure {run.folder / 'training.png'})")
    processes().destroy_process_group()
