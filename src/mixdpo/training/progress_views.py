"""Where a person watches a run: plain lines, a terminal with a bar below them, or one display of a notebook."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from html import escape
from typing import Any, Final, Protocol

from rich.console import Console

from mixdpo.common.progress import rate_bar
from mixdpo.training.progress_rows import Column, aligned, headings, line_width

_HEADINGS_EVERY: Final = 30
_ROWS_OF_NOTEBOOK: Final = 12
_BETWEEN_UPDATES: Final = 0.5
"""Seconds."""


class View(Protocol):
    """Shows a run."""

    width: int
    """Of a line, in characters."""

    def begin(self, columns: Sequence[Column], done: int, steps: int) -> None:
        """Begin a run, of whose steps so many are done."""

    def advance(self, done: int, rate: str, left: str) -> None:
        """Say how many steps are done, how fast, and how long the others will take."""

    def note(self, text: str) -> None:
        """Say what an evaluation has come to; empty where there is none."""

    def row(self, cells: Sequence[str], after: str = "") -> None:
        """Show a row of numbers, with words behind it."""

    def say(self, text: str) -> None:
        """Show a sentence."""

    def end(self) -> None:
        """End."""


class Lines:
    """Plain lines, as in a file that the output is sent to."""

    def __init__(self, console: Console) -> None:
        self.console, self.width = console, console.width
        self._columns: Sequence[Column] = ()
        self._rows = 0

    def begin(self, columns: Sequence[Column], done: int, steps: int) -> None:
        """Begin a run; its headings come with the first row."""
        self._columns, self._rows = columns, 0

    def advance(self, done: int, rate: str, left: str) -> None:
        """Show nothing: every row has its step."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def row(self, cells: Sequence[str], after: str = "") -> None:
        """Print a row; every so many begin with the headings."""
        if self._rows % _HEADINGS_EVERY == 0:
            self._print(*headings(self._columns))
        self._rows += 1
        line = aligned(self._columns, cells)
        if len(line) + 2 + len(after) > max(line_width(self._columns), self.width):
            self._print(line, *textwrap.wrap(after, self.width, initial_indent="    ", subsequent_indent="    "))
        else:
            self._print(f"{line}  {after}".rstrip())

    def say(self, text: str) -> None:
        """Print a sentence."""
        self._print(*textwrap.wrap(text, self.width))

    def end(self) -> None:
        """Show nothing."""

    def _print(self, *lines: str) -> None:
        self.console.print("\n".join(lines), soft_wrap=True, markup=False, emoji=False, highlight=False)


class Terminal(Lines):
    """The same lines, above a bar."""

    def begin(self, columns: Sequence[Column], done: int, steps: int) -> None:
        """Open the bar."""
        super().begin(columns, done, steps)
        self._progress = rate_bar(self.console)
        self._task = self._progress.add_task("training", completed=done, total=steps, rate="")
        self._progress.start()

    def advance(self, done: int, rate: str, left: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, rate=rate)

    def note(self, text: str) -> None:
        """Say it beside the bar."""
        self._progress.update(self._task, description=text or "training")

    def end(self) -> None:
        """Close the bar."""
        self._progress.stop()


class Notebook:
    """One display under a cell: a bar, what was said, all evaluations and the last rows."""

    width = 10_000  # a browser breaks lines itself

    def __init__(self) -> None:
        self._display: Any = None
        self._updated = 0.0

    def begin(self, columns: Sequence[Column], done: int, steps: int) -> None:
        """Make the display."""
        from IPython.display import display

        self._columns, self._steps = columns, steps
        self._done, self._words = done, "training"
        self._said: list[str] = []
        self._rows: list[tuple[Sequence[str], str]] = []
        self._display = display(self, display_id=True)

    def advance(self, done: int, rate: str, left: str) -> None:
        """Move the bar."""
        self._done, self._words = done, f"step {done:,} of {self._steps:,}, {rate}, {left} left"
        if time.monotonic() - self._updated > _BETWEEN_UPDATES:  # steps of small models are fast, browsers are not
            self._update()

    def note(self, text: str) -> None:
        """Say it beside the bar."""
        self._words = text or self._words
        self._update()

    def row(self, cells: Sequence[str], after: str = "") -> None:
        """Add a row; of training the last ones stay."""
        self._rows.append((cells, after))
        training = [row for row in self._rows if row[0][1] != "eval"]
        if len(training) > _ROWS_OF_NOTEBOOK:
            self._rows.remove(training[0])
        self._update()

    def say(self, text: str) -> None:
        """Add a sentence."""
        self._said.append(text)
        self._update()

    def end(self) -> None:
        """Show it as it stays."""
        self._words = f"{self._done:,} of {self._steps:,} steps"
        self._update()

    def _update(self) -> None:
        self._updated = time.monotonic()
        if self._display is not None:
            self._display.update(self)

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{escape(' '.join(filter(None, column.heading)))}</th>" for column in self._columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + (f'<td colspan="9" style="text-align:left">{escape(after)}</td>' if after else "") + "</tr>"
            for cells, after in self._rows
        )  # fmt: skip
        said = "".join(f"<p>{escape(text)}</p>" for text in self._said)
        bar = f'<progress value="{self._done}" max="{self._steps}" style="width:20em"></progress>'
        table = f'<table style="text-align:right"><tr>{heads}</tr>{rows}</table>'
        return f"<div>{bar} {escape(self._words)}{said}{table}</div>"

    def __repr__(self) -> str:
        lines = [*headings(self._columns), *(f"{aligned(self._columns, row)}  {after}" for row, after in self._rows)]
        return "\n".join([self._words, *self._said, *lines])


def view_for(console: Console) -> View:
    """Return what shows a run where the console writes to."""
    if console.is_jupyter:
        return Notebook()
    return Terminal(console) if console.is_terminal else Lines(console)
