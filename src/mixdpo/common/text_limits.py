"""How long one text and one line of a file may be: a longer one is a mistake, and takes memory until there is none."""

from __future__ import annotations

from typing import Any, Final

LONGEST_TEXT: Final = 10_000_000
"""Characters of one text; a longer one is no answer, and is tokenised as a whole until memory ends."""
LONGEST_LINE: Final = 10 * LONGEST_TEXT
"""Bytes of one line of JSON."""


def too_long(value: Any) -> str | None:
    """Say how a text, or one within lists and mappings, is longer than `LONGEST_TEXT`; None if none is."""
    if isinstance(value, str):
        if len(value) <= LONGEST_TEXT:
            return None
        return f"has {len(value):,} characters, and a text of at most {LONGEST_TEXT:,} is read"
    value = list(value.values()) if isinstance(value, dict) else value
    return next(filter(None, map(too_long, value)), None) if isinstance(value, (list, tuple)) else None


def line_too_long(size: int) -> str:
    """Say that a line of so many bytes is not read."""
    return f"the line has {size / 1e6:,.0f} MB, and one of at most {LONGEST_LINE / 1e6:,.0f} MB is read"
