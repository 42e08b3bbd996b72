"""The command `demo`."""

from __future__ import annotations

from pathlib import Path

import click

from mixdpo.cli.options import FILE_OR_NAME
from mixdpo.cli.recipe_options import quiet_libraries


@click.command()
@click.option(
    "--model",
    type=FILE_OR_NAME,
    help="Folder or hub id; default: SmolLM2-135M-Instruct from the Python package index.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True,
    help="Folder of the demo's run.",
)  # fmt: skip
@click.option("--short", is_flag=True, help="A few steps and prompts: shows that everything works, measures nothing.")
def demo(model: str | None, output: Path, short: bool) -> None:
    """Plan, train and measure a real model on checkable demands, in 5 to 7 minutes on two CPU cores."""
    from mixdpo.study.demo.demo import run_demo

    quiet_libraries()
    run_demo(model, output, short)
