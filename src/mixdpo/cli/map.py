"""The command `map`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.cli.topic_help import CommandOfFile
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import print_table


@click.command("map", cls=CommandOfFile, reader="mixdpo.study.world.map_file")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True,
    help="Folder of results; maps that share it share their runs.",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(min=1), default=None,
    help="Runs at once, one per core  [default: all cores]",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say how many runs are left and how long they take; run none.")
def map_(file: Path, output: Path, processes: int | None, dry_run: bool) -> None:
    """Train thousands of small policies in worlds of known reward, and map where hard pairs help or harm.

    FILE is a map file (YAML), or mixdpo:NAME (see mixdpo examples). A map that was stopped goes on where it was when
    it is started again.
    """
    from mixdpo.common.progress import pairs_bar
    from mixdpo.recipe.shipped_files import resolve
    from mixdpo.study.world.map_file import load_map

    check_output_folder(output)
    quiet_libraries()
    settings = load_map(resolve(file, "map file"))
    processes = processes or os.cpu_count() or 1

    from mixdpo.study.world.map_execution import run_all
    from mixdpo.study.world.map_pace import left_table
    from mixdpo.study.world.map_report import write_map_report
    from mixdpo.study.world.map_runs import final_runs, tuning_runs
    from mixdpo.study.world.map_table import map_table, save_table
    from mixdpo.study.world.map_tuning import chosen_settings
    from mixdpo.training.run_folder import versions

    if dry_run:
        print_table(left_table(settings, output, processes))
        return
    trials = list(tuning_runs(settings))
    tried = list(zip(trials, run_all(settings, trials, output, processes, pairs_bar("tuning", "runs")), strict=True))
    finals = list(final_runs(settings, chosen_settings(settings, tried)))
    found = run_all(settings, finals, output, processes, pairs_bar("final runs", "runs"))
    table = map_table(settings, list(zip(finals, found, strict=True)), tried, versions())
    save_table(table, output)
    write_map_report(table, output)
    click.echo(f"map: {output} (map.json, map.md, cells.md, and crossing.png where cells differ in quality)")
