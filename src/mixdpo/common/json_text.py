"""JSON out of files of others, which may be nested so deeply that a parser dies of it."""

from __future__ import annotations

import json
import re
from typing import Any, Final

MOST_NESTED: Final = 200
"""Levels of lists and objects; Python's parsers give up below 1,000, and Arrow's reader ends the process."""

_TEXT_OR_BRACKET: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]'
_IN_STR: Final = re.compile(_TEXT_OR_BRACKET, re.DOTALL)
_IN_BYTES: Final = re.compile(_TEXT_OR_BRACKET.encode(), re.DOTALL)


def parse_json(text: str | bytes) -> Any:
    """Return what a text, or its bytes in UTF-8, holds as JSON.

    Raises:
        json.JSONDecodeError: it is no JSON, or nested more than `MOST_NESTED` levels.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    at = too_deep_at(text)
    if at is not None:
        raise json.JSONDecodeError(f"nested more than {MOST_NESTED} levels deep", text, at)
    return json.loads(text)


def too_deep_at(text: str | bytes) -> int | None:
    """Return where in JSON the nesting exceeds `MOST_NESTED`, None if nowhere. Brackets within texts are none."""
    few = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if few <= MOST_NESTED:
        return None
    depth = 0
    for found in _IN_STR.finditer(text) if isinstance(text, str) else _IN_BYTES.finditer(text):
        first = text[found.start()]
        if first in ("[", "{", 0x5B, 0x7B):
            depth += 1
            if depth > MOST_NESTED:
                return found.start()
        elif first not in ('"', 0x22):
            depth = max(depth - 1, 0)
    return None
