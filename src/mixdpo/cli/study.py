"""The command `study`."""

from __future__ import annotations

from pathlib import Path

import click

from mixdpo.cli.recipe_options import quiet_libraries
from mixdpo.cli.topic_help import CommandOfFile
from mixdpo.common.files import check_output_folder
from mixdpo.common.tables import plain_console, print_table


@click.command("study", cls=CommandOfFile, reader="mixdpo.study.study_file")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("runs/studies"), show_default=True,
    help="Folder of runs and results; studies that share it share their runs.",
)  # fmt: skip
@click.option("--reuse", type=click.Path(path_type=Path), multiple=True,
              help="Folder of results (results.parquet, runs.json) whose runs are not run again.")  # fmt: skip
@click.option("--power", type=click.Path(path_type=Path), multiple=True,
              help="Folder of results of an earlier study by the same measure: say what the contrasts of FILE would "
              "find by the variances there, and how many seeds and hours it takes to see 30 % of the baseline's gain; "
              "run none.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List the runs and the time they are expected to take; run none.")
def study(file: Path, output: Path, reuse: tuple[Path, ...], power: tuple[Path, ...], dry_run: bool) -> None:
    """Compare plans, losses and settings fairly: tune every arm alike, run every seed, report with intervals.

    FILE is a study file (YAML), or mixdpo:NAME (see mixdpo examples). A study that was stopped goes on where it was
    when it is started again.
    """
    from mixdpo.recipe.shipped_files import resolve
    from mixdpo.study.planned_power import earlier_for, grounds, power_tables
    from mixdpo.study.report_files import write_report
    from mixdpo.study.run_study import run_study
    from mixdpo.study.study_file import load_study
    from mixdpo.study.study_progress import StudyProgress, dry_run_table, expected_time, pace, plan_of_runs
    from mixdpo.study.study_results import gather, load_results, save_results, take_over

    check_output_folder(output)
    quiet_libraries()
    settings = load_study(resolve(file, "study file"))
    if power:
        known = earlier_for(settings, [load_results(folder) for folder in power])
        for table in power_tables(settings, known):
            print_table(table)
        click.echo(grounds(known))
        return
    for folder in reuse:
        click.echo(f"{folder}: {take_over(load_results(folder), output)} runs taken over")
    planned = plan_of_runs(settings, output)
    console = plain_console()
    if dry_run:
        console.print(dry_run_table(planned, settings.name))
        click.echo(expected_time(settings, planned, pace(settings, output)))
        return
    progress = StudyProgress(settings, planned, console)
    with progress.shown():
        runs = run_study(settings, output, notify=progress.finished, started=progress.started)
    folder = output / settings.name
    results = gather(settings, runs, output)
    save_results(results, folder)
    write_report(results, folder)
    if failed := results.left_to_repeat():
        click.echo(f"{failed} runs failed; start the study again to repeat them")
    click.echo(f"study: {folder} (results.parquet, runs.json, tables.md, tables.tex, study.png)")
