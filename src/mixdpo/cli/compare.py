"""The command `compare`."""

from __future__ import annotations

from pathlib import Path

import click

from mixdpo.cli.options import settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import print_part
from mixdpo.evaluation.compare.compare_settings import CompareSettings


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("comparison"), show_default=True,
    help="Folder for the tables, the figures and comparison.html.",
)  # fmt: skip
@settings_options(CompareSettings, "settings")
def compare(sources: tuple[Path, ...], output: Path, settings: CompareSettings) -> None:
    """Compare results of `mixdpo eval` (JSON files) and runs (folders): tables, figures and a page to read answers."""
    from mixdpo.evaluation.compare.comparison import compare as compare_sources
    from mixdpo.evaluation.compare.comparison import sayings, shown_tables

    check_output_folder(output)
    quiet_libraries()
    comparison = compare_sources(sources, settings=settings)
    page = comparison.save(output)
    for results in comparison:
        click.echo(results.name)
        for line in sayings(results):
            click.echo(f"  {line}")
        for part in shown_tables(results):
            print_part(part)
        click.echo()
    click.echo(f"tables, figures and page: {page}")
