"""What objects show of themselves in a notebook: a heading, sentences and small tables, of which nothing is markup.

Nothing has a colour of its own, so that they are readable in a notebook's light and in its dark theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from mixdpo.common.tables import TextTable

MOST_ROWS: Final = 12
"""Rows of a table; how many more there are is said."""


def notebook_html(title: str, *parts: str | TextTable) -> str:
    """Return a heading and what stands under it, each a sentence or a table, as HTML for `_repr_html_`."""
    shown = [_table(part) if isinstance(part, TextTable) else Markup("<div>{}</div>").format(part) for part in parts]
    return str(Markup("<div><b>{}</b>{}</div>").format(title, Markup("").join(shown)))


def _table(table: TextTable) -> Markup:
    rows = list(table.rows[:MOST_ROWS])
    if more := len(table.rows) - len(rows):
        rows.append([f"... {more:,} more", *[""] * (len(table.headings) - 1)])
    whole = Markup(
        '<div style="overflow-x:auto"><table>{}<thead>{}</thead><tbody>{}</tbody></table></div>'  # it may be wide
    )
    return whole.format(
        Markup("<caption>{}</caption>").format(table.title) if table.title else "",
        _row("th", table.headings, table.names),
        Markup("").join(_row("td", row, table.names) for row in rows),
    )


def _row(tag: str, cells: Sequence[str], names: int) -> Markup:
    """Return a row whose first `names` cells are names, on the left; numbers stand on the right."""
    cell = Markup('<{} style="text-align:{};padding:.1em .6em">{}</{}>')
    sides = ["left" if column < names else "right" for column in range(len(cells))]
    lines = (Markup("<br>").join(text.split("\n")) for text in cells)
    shown = (cell.format(tag, side, text, tag) for side, text in zip(sides, lines, strict=True))
    return Markup("<tr>{}</tr>").format(Markup("").join(shown))
