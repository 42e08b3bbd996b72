"""Progress bars with a rate per second and the time left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from mixdpo.common.processes import processes

_REMEMBERED = 600.0
"""Seconds of progress that the time left is estimated from: of a large model one step alone can take half a minute."""


def rate_bar(console: Console) -> Progress:
    """Return a bar whose tasks have the field `rate`; no text of them is taken for markup.

    It is as wide as the terminal: the bar itself takes the room that the numbers leave, and a long description breaks
    before one of them is cut.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False, table_column=Column(no_wrap=False)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, no_wrap=True)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        expand=True,
        speed_estimate_period=_REMEMBERED,
    )


def pairs_bar(name: str, unit: str = "pairs") -> Callable[[int, int], None]:
    """Return a function `(pairs done, pairs in all)` that shows the progress of a pass; silent on other processes."""
    console = Console(stderr=True, quiet=not _is_main_process())
    begin = time.perf_counter()
    progress = rate_bar(console) if console.is_terminal else None
    task = progress.add_task(name, rate="") if progress else None

    def show(done: int, total: int) -> None:
        rate = f"{done / (time.perf_counter() - begin):.2f} {unit}/s"
        if progress is None:
            if done == total:
                console.print(f"{name}: {total} {unit}, {rate}", soft_wrap=True, markup=False)
            return
        progress.start()
        progress.update(task, completed=done, total=total, rate=rate)  # type: ignore[arg-type]
        if done == total:
            progress.stop()

    return show


def _is_main_process() -> bool:
    if "torch" not in sys.modules:  # nothing runs on several processes without it
        return True
    return bool(processes().is_main_process)
