"""Tables for the terminal."""

from __future__ import annotations

from rich.table import Table


def results_table(title: str, *headings: str, names: int = 1, caption: str | None = None) -> Table:
    """Return an empty table whose first `names` columns hold names and whose others hold numbers."""
    table = Table(title=title, title_justify="left", caption=caption)
    for place, heading in enumerate(headings):
        if place < names:
            table.add_column(heading, overflow="fold")
        else:  # where room is short, names break and numbers do not
            table.add_column(heading, justify="right", no_wrap=True)
    return table
