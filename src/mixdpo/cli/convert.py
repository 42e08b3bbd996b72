"""The command `convert`."""

from __future__ import annotations

from pathlib import Path

import click

from mixdpo.cli.recipe_options import quiet_libraries


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from", "source", type=click.Choice(["trl", "axolotl", "llama-factory"]), required=True,
    help="The trainer that FILE was written for.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("recipe.yaml"), show_default=True,
    help="The recipe; must not exist.",
)  # fmt: skip
def convert(file: Path, source: str, output: Path) -> None:
    """Make a recipe of FILE, a YAML configuration of TRL, Axolotl or LLaMA-Factory.

    Lists what was guessed and what has no counterpart. Train by it with mixdpo train --config RECIPE.
    """
    quiet_libraries()

    from mixdpo.common.errors import InputError
    from mixdpo.common.files import atomic_path
    from mixdpo.recipe.convert.convert import convert as convert_file
    from mixdpo.recipe.convert.convert import recipe_text, report

    if output.exists():
        raise InputError("the file exists already", file=output, hint="choose another --output, or remove it")
    conversion = convert_file(file, source)
    with atomic_path(output) as temporary:
        temporary.write_text(recipe_text(conversion, file), encoding="utf-8")
    for line in report(conversion):
        click.echo(line)
    click.echo(f"recipe: {output}")
