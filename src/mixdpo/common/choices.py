"""Values of which there are a few, for callers whose types nobody checks."""

from __future__ import annotations

from typing import Any, get_args

from mixdpo.common.errors import InputError


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise `InputError` unless the value is one of those of a `Literal`."""
    if value not in get_args(choices):
        raise InputError(f"{name} is {value!r}; it is one of {', '.join(get_args(choices))}")
