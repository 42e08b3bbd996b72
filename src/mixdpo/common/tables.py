"""Tables of texts as plain text, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
_MARKDOWN: Final = str.maketrans({character: "\\" + character for character in "\\`*_[]<>|#"})


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first `names` columns hold names, the others numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


def as_text(table: TextTable) -> str:
    """Align the columns with blanks."""
    lines = [table.headings, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.headings))]
    aligned = [
        "  ".join(
            cell.ljust(width) if column < table.names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, "", aligned[0], "-" * (sum(widths) + 2 * len(widths) - 2), *aligned[1:]]) + "\n"


def as_markdown(table: TextTable) -> str:
    """Write a table of GitHub's Markdown; nothing in a cell is taken for markup."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(cell).translate(_MARKDOWN) for cell in cells) + " |"

    alignment = ["---" if column < table.names else "---:" for column in range(len(table.headings))]
    return "\n".join([row(table.headings), f"| {' | '.join(alignment)} |", *map(row, table.rows)]) + "\n"


def as_latex(table: TextTable) -> str:
    """Write a tabular with the rules of booktabs; every special character is escaped."""

    def row(cells: Sequence[str]) -> str:
        return " & ".join(latex_text(cell) for cell in cells) + r" \\"

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
