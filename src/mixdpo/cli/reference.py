"""The command `reference`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mixdpo.cli.recipe_options import CommandWithSettings, config_option, data_argument, recipe_of


@click.command(cls=CommandWithSettings)
@data_argument
@config_option
@click.pass_obj
def reference(overrides: dict[str, Any], data: str | None, config: Path | None) -> None:
    """Compute the reference that training on DATA (file, folder or hub id; default: the recipe's) will read.

    It is kept in the cache, so that `mixdpo train` with any learning rate, beta or batch size finds it there.
    """
    recipe = recipe_of(overrides, config, data)

    from mixdpo.common.processes import processes
    from mixdpo.recipe.runs import reference_from_recipe

    uses = reference_from_recipe(recipe)
    if processes().is_main_process:
        for name, use in uses.items():
            click.echo(f"reference ({name}): {use.found:,} pairs from the cache, {use.computed:,} computed")
        click.echo(f"cache: {uses['train'].file}")
    processes().destroy_process_group()
