"""The command `merge`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="CHECKPOINT_OR_ADAPTER", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the model; must not exist."
)
def merge(source: Path, output: Path) -> None:
    """Make one folder that transformers loads of a run's checkpoint, or of an adapter and its base model.

    The checkpoint may be of any kind of run: whole, of adapters, or in shards of several processes.
    """
    from mixdpo.training.merge import merge as merge_weights

    merge_weights(source, output)
    click.echo(f"model: {output}")
