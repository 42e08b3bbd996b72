"""What the verbs share: quiet libraries, and how results and numbers are printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table


def quiet_libraries() -> None:
    """Leave standard error to our own progress and warnings."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def finish(table: Table, output: Path) -> None:
    """Print the table and where the results are."""
    Console().print(table)
    click.echo(f"results: {output}")


def interval_text(interval: Sequence[float] | None, digits: int = 1) -> str:
    """Write an interval as `low to high`, a dash for none."""
    return "-" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def value_text(value: Any, digits: int = 2) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"
