"""Tables and numbers for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixdpo.common.tables import TextTable


def results_table(title: str, *headings: str, names: int = 1, caption: str | None = None) -> Table:
    """Return an empty table whose first `names` columns hold names and whose others hold numbers."""
    table = Table(title=title, title_justify="left", caption=caption)
    for column, heading in enumerate(headings):
        if column < names:
            table.add_column(heading, overflow="fold")
        else:  # where room is short, names break and numbers do not
            table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_table(table: TextTable) -> None:
    """Print a table of texts, of which nothing is taken for markup."""
    printed = results_table(table.title, *table.headings, names=table.names)
    for row in table.rows:
        printed.add_row(*map(Text, row))
    Console().print(printed)


def interval_text(interval: Sequence[float] | None, digits: int = 1) -> str:
    """Write an interval as `low to high`, a dash for none."""
    return "-" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def value_text(value: Any, digits: int = 2) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"
