"""The command `compare`."""

from __future__ import annotations

from pathlib import Path

import click

from mixdpo.cli.options import settings_options
from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import TextTable, print_table
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
    from mixdpo.evaluation.compare.collect import collect, title
    from mixdpo.evaluation.compare.export import save_comparison
    from mixdpo.evaluation.compare.sentences import sentences, warnings
    from mixdpo.evaluation.compare.tables import differences_table, summary_table
    from mixdpo.evaluation.difference_tables import paired_method

    check_output_folder(output)
    quiet_libraries()
    comparison = collect(sources, settings)
    page = save_comparison(comparison, output)
    for results in comparison:
        click.echo(results.name)
        for sentence in sentences(results):
            click.echo(f"  {sentence}")
        for note in [*warnings(results), *results.notes]:
            click.echo(f"  note: {note}")
        for metric, differences in results.differences.items():
            if len(differences) > 1:
                click.echo()
                print_table(differences_table(results, metric, differences))
                click.echo(paired_method(differences, results.grouped))
        table = summary_table(results)
        click.echo()
        print_table(TextTable(title(results), table.headings, table.rows))
        click.echo()
    click.echo(f"tables, figures and page: {page}")
