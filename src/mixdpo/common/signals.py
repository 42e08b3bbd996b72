"""Programs that are told to end: by SIGTERM, or by SIGUSR1, a scheduler's warning that time is nearly over."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from types import FrameType
from typing import Final, NoReturn

SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""The signals that ask a program to end; Windows has one of them."""


EXIT_STATUS: Final = 128 + signal.SIGTERM
"""Of a program that was told to end, as if SIGTERM had ended it: 143."""


class Terminated(SystemExit):
    """The program was told to end. Not an `Exception`, and exit status 143 where nobody catches it."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


@contextmanager
def taking_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Have `SIGNALS` call a handler with their number inside the block; what they did before comes back after it.

    A program that has said itself what they do is left alone, and so are threads beside the main one, where Python
    does not let handlers be set.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = _Handler(handler)
    free = [number for number, now in before.items() if now is signal.SIG_DFL or isinstance(now, _Handler)]
    free = free if current_thread() is main_thread() else []
    for number in free:
        signal.signal(number, taken)
    try:
        yield
    finally:
        for number in free:
            if signal.getsignal(number) is taken:
                signal.signal(number, before[number])


def end_at_once(number: int) -> NoReturn:
    """Raise `Terminated`, as a handler of `taking_signals`."""
    raise Terminated


def begin_worker(then: Callable[[int], None] | None, worker: int) -> None:
    """Leave `SIGNALS` to the program that a data loader's worker works for, then begin the worker.

    Launchers signal the whole group of a program. A worker ends when the program has done with it or is gone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)


@dataclass(frozen=True)
class _Handler:
    handler: Callable[[int], None]
    process: int = field(default_factory=os.getpid)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.process:
            self.handler(number)
        elif number == signal.SIGTERM:  # a process forked from this one, such as a data loader's, ends as any does
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
