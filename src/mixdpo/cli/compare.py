"""The command `compare`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from mixdpo.cli.shared import quiet_libraries
from mixdpo.common.tables import results_table


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("comparison"), show_default=True,
    help="Folder for the tables, the figures and comparison.html.",
)  # fmt: skip
@click.option("--against", help="Compare every other model with this one on the same prompts.")
@click.option("--answers", multiple=True, metavar="BENCHMARK/MODEL=FILE",
              help="Answers of a model whose result names none; may be given again.")  # fmt: skip
@click.option("--prompts", multiple=True, metavar="BENCHMARK=FILE",
              help="Ids and texts of prompts that answers lack; may be given again.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
def compare(
    sources: tuple[Path, ...], output: Path, against: str | None, answers: tuple[str, ...],
    prompts: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
    """Compare results of `mixdpo eval` (JSON files) and runs (folders): tables, figures and a page to read answers."""
    from mixdpo.evaluation.compare import CompareSettings, collect, save_comparison
    from mixdpo.evaluation.compare.collect import title
    from mixdpo.evaluation.compare.tables import summary_table

    quiet_libraries()
    settings = CompareSettings(
        against=against, answers=dict(map(_split, answers)), prompts=dict(map(_split, prompts)), seed=seed
    )
    comparison = collect(sources, settings)
    page = save_comparison(comparison, output)
    for results in comparison:
        table = summary_table(results)
        printed = results_table(title(results), *(table.headings[:3]))
        for row in table.rows:
            printed.add_row(*(Text(cell) for cell in row[:3]))
        Console().print(printed)
        for note in results.notes:
            click.echo(f"note: {note}")
    click.echo(f"tables, figures and page: {page}")


def _split(given: str) -> tuple[str, str]:
    name, equals, file = given.partition("=")
    if not (name and equals and file):
        raise click.BadParameter(f"{given}: write it as NAME=FILE.")
    return name, file
