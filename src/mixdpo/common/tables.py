"""Tables of texts as plain text, Markdown and LaTeX, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

_LATEX: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "Δ": r"$\Delta$",
        "−": "$-$",
        "–": "--",
    }
)
_LEAST_NAME: Final = 16
"""Characters of a name that a table in a terminal shows at least, if it has as many."""
_MARKDOWN: Final = str.maketrans({character: "\\" + character for character in "\\`*_[]<>|#"})


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first `names` columns hold names, the others numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


def as_text(table: TextTable) -> str:
    """Align the columns with blanks; every row is one line."""
    lines = [list(map(one_line, line)) for line in (table.headings, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.headings))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column < table.names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([one_line(table.title), "", aligned[0], rule, *aligned[1:]]) + "\n"


def as_markdown(table: TextTable) -> str:
    """Write a table of GitHub's Markdown; nothing in a cell is taken for markup."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(cell).translate(_MARKDOWN) for cell in cells) + " |"

    alignment = ["---" if column < table.names else "---:" for column in range(len(table.headings))]
    return "\n".join([row(table.headings), f"| {' | '.join(alignment)} |", *map(row, table.rows)]) + "\n"


def as_latex(table: TextTable) -> str:
    """Write a tabular with the rules of booktabs; every special character is escaped."""

    def row(cells: Sequence[str]) -> str:
        line = " & ".join(latex_text(cell) for cell in cells) + r" \\"
        # LaTeX would take a bracket or star for an argument of the command that ends the line before.
        return "{}" + line if line.startswith(("[", "*")) else line

    columns = "l" * table.names + "r" * (len(table.headings) - table.names)
    body = [row(cells) for cells in table.rows]
    return "\n".join(
        [
            f"% {one_line(table.title)}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            row(table.headings),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    ) + "\n"  # fmt: skip


def latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    return one_line(text).translate(_LATEX)


def one_line(text: str) -> str:
    """Put a text on one line, without characters that control a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def results_table(title: str, *headings: str, names: int = 1, caption: str | None = None) -> Table:
    """Return an empty table whose first `names` columns hold names and whose others hold numbers.

    To be printed on a `plain_console`, for names may hold anything.
    """
    table = Table(title=title, title_justify="left", caption=caption)
    for column, heading in enumerate(headings):
        if column < names:
            table.add_column(heading, overflow="fold")
        else:  # where room is short, names break and numbers do not
            table.add_column(heading, justify="right", no_wrap=True)
    return table


def plain_console(stderr: bool = False) -> Console:
    """Return a console that takes nothing in titles, headings and cells for markup or an emoji's name."""
    return Console(stderr=stderr, markup=False, emoji=False)


def print_table(table: TextTable) -> None:
    """Print a table of texts, of which nothing is taken for markup, in the width of the terminal; see `as_lines`."""
    console = plain_console()
    console.print("\n".join(as_lines(table, console.width)), highlight=False, soft_wrap=True)


def print_part(part: str | TextTable) -> None:
    """Print a sentence, or a table below a blank line."""
    if isinstance(part, str):
        print(part)
    else:
        print()
        print_table(part)


def as_lines(table: TextTable, width: int) -> list[str]:
    """Align the columns with blanks in a width of characters; every row is one line.

    Where room is short, headings of numbers have two lines, and long names lose their middle, as long as they can
    still be told apart; columns that find no room even so stand in a second table below, with the names again.
    """
    body = [list(map(one_line, row)) for row in table.rows]
    heads = [list(map(one_line, table.headings))]
    if sum(widths := _widths([*heads, *body])) + 2 * (len(widths) - 1) > width:
        two = [("", one) if column < table.names else _two_lines(one) for column, one in enumerate(heads[0])]
        heads = [[one[line] for one in two] for line in (0, 1) if any(one[line] for one in two)]
        widths = _widths([*heads, *body])
    lines = [one_line(table.title), ""] if table.title else []
    rows, begin = [*heads, *body], table.names
    while True:
        room = width - sum(min(size, _LEAST_NAME) for size in widths[: table.names]) - 2 * table.names
        end = begin + 1
        while end < len(widths) and sum(widths[begin : end + 1]) + 2 * (end - begin) <= room:
            end += 1
        names = _fitted_names(
            [row[: table.names] for row in rows],
            width - sum(widths[begin:end]) - 2 * (end - begin) - 2 * (table.names - 1),
        )
        sizes = _widths(names)
        for number, (name, row) in enumerate(zip(names, rows, strict=True)):
            cells = [set_cell_size(cell, size) for cell, size in zip(name, sizes, strict=True)]
            for cell, size in zip(row[begin:end], widths[begin:end], strict=True):
                cells.append(" " * (size - cell_len(cell)) + cell)
            lines.append("  ".join(cells).rstrip())
            if number == len(heads) - 1:
                lines.append("-" * (sum(sizes) + sum(widths[begin:end]) + 2 * (len(cells) - 1)))
        if end >= len(widths):
            return lines
        begin = end
        lines.append("")


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _two_lines(heading: str) -> tuple[str, str]:
    """Cut a heading in two lines of about the same length, if it has words to be cut between."""
    words = heading.split()
    cuts = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(len(words))]
    return min(cuts, key=lambda lines: max(map(cell_len, lines)))


def _fitted_names(rows: Sequence[Sequence[str]], room: int) -> list[list[str]]:
    """Shorten the longest names until all columns of them fit in the room, as far as they stay different."""
    widths = _widths(rows)
    while sum(widths) > room and max(widths) > _LEAST_NAME:
        widths[widths.index(max(widths))] -= 1
    return [list(row) for row in zip(*map(_shortened, zip(*rows, strict=True), widths), strict=True)]


def _shortened(names: Sequence[str], width: int) -> list[str]:
    different = len(set(names))
    for size in range(width, max(map(cell_len, names)) + 1):
        for after in ((size - 1) // 2, 2 * size // 3, size // 3):  # beginnings and ends tell names apart
            found = [_without_middle(name, size, after) for name in names]
            if len(set(found)) == different:
                return found
    return list(names)


def _without_middle(name: str, width: int, after: int) -> str:
    """Return a name in a width, with at most so many cells `after` what is left out."""
    if cell_len(name) <= width:
        return name
    end = name[-after:]
    while cell_len(end) > after:  # of characters that are two cells wide
        end = end[1:]
    return f"{set_cell_size(name, width - 1 - cell_len(end)).rstrip()}…{end}"


def interval_text(interval: Sequence[float] | None, digits: int = 1) -> str:
    """Write an interval as `low to high`, a dash for none."""
    return "-" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def value_text(value: Any, digits: int = 2) -> str:
    """Write a number, a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def fixed_text(value: float, digits: int = 0, sign: bool = False) -> str:
    """Write a number with so many decimals, with `sign` a positive one, too; what rounds to zero has no sign."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def signed_text(value: float, digits: int = 0) -> str:
    """Write a number with its sign; what rounds to zero has none."""
    return fixed_text(value, digits, sign=True)


def range_text(low: float, high: float, digits: int = 3) -> str:
    """Write the ends of a range with significant digits; one of them where they are the same."""
    first, last = (f"{end:.{digits}g}" for end in (low, high))
    return first if first == last else f"{first} to {last}"


def percent_text(share: float, digits: int = 1) -> str:
    """Write a share in per cent, the sign apart."""
    return f"{100 * share:.{digits}f} %"
