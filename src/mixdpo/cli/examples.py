"""The command `examples`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("."), show_default=True,
    help="Folder to copy them to.",
)  # fmt: skip
def examples(names: tuple[str, ...], output: Path) -> None:
    """Copy files of the package: recipes, study files and examples; without NAMES, list them.

    A recipe can be used without copying it, as --config mixdpo:NAME, and a study file as mixdpo study mixdpo:NAME.
    """
    from mixdpo.recipe.shipped_files import copy_shipped, shipped_files

    if names:
        for copy in copy_shipped(names, output):
            click.echo(f"copied: {copy}")
        return
    formatter = click.HelpFormatter()
    for kind, files in groupby(shipped_files(), key=lambda one: one.kind):
        with formatter.section(f"{kind}s"):
            formatter.write_dl([(one.name, one.summary) for one in files])
    click.echo(formatter.getvalue().strip())
