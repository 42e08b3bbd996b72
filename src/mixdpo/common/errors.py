"""Errors a person sees: one line that says what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from mixdpo.common.urls import shown_place


def install_extra(extra: str) -> str:
    """Return how to install what only some commands need, as the hint of an error; `extra` as in pyproject.toml."""
    return f"in a clone of mixdpo, run pip install -e '.[{extra}]'"


class MixdpoError(Exception):
    """Base of the errors this package raises on purpose."""

    exit_status = 1


class RunError(MixdpoError, RuntimeError):
    """The input was fine but the run failed (exit status 1)."""


class InputError(MixdpoError, ValueError):
    """The input or the settings are wrong (exit status 2).

    The message is one line: ``file, row R, column C: what is wrong; what to do``. Rows are counted from 1,
    as an editor shows them.
    """

    exit_status = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.column, self.hint = problem, file, row, column, hint
        where = [shown_place(file)] if file is not None else []
        if row is not None:
            where.append(f"row {row}")
        if column is not None:
            where.append(f"column {column!r}")
        message = f"{', '.join(where)}: {problem}" if where else problem
        if hint:
            message = f"{message.rstrip('.')}; {hint}"
        super().__init__(" ".join(message.split()))

    def about(self, file: str | Path | None) -> InputError:
        """Return the same error, as one of this file if it names none itself."""
        if self.file is not None:
            return self
        return InputError(self.problem, file=file, row=self.row, column=self.column, hint=self.hint)
