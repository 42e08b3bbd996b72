"""What the verbs share: quiet libraries, tables, and how numbers are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def quiet_libraries() -> None:
    """Leave standard error to our own progress and warnings."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def results_table(title: str, *headings: str) -> Table:
    """Return an empty table whose first column holds names and whose others hold numbers."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        if heading == headings[0]:
            table.add_column(heading, overflow="fold")
        else:  # where room is short, names break and numbers do not
            table.add_column(heading, justify="right", no_wrap=True)
    return table


def finish(table: Table, output: Path) -> None:
    """Print the table and where the results are."""
    Console().print(table)
    click.echo(f"results: {output}")


def progress_bars() -> Progress:
    """Return bars that show how much is done, and how long the rest will take."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def shown_progress(bars: Progress, name: str) -> Callable[[int, int], None]:
    """Add a bar; the function takes (done, in all)."""
    task = bars.add_task(name, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


def interval_text(interval: Sequence[float] | None, digits: int = 1) -> str:
    """Write an interval as `low to high`, a dash for none."""
    return "-" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def value_text(value: Any, digits: int = 2) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"
