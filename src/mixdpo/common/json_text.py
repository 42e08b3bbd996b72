"""JSON out of files of others, which may be nested so deeply that a parser dies of it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, Final

MOST_NESTED: Final = 200
"""Levels of lists and objects; Python's parsers give up below 1,000, and Arrow's reader ends the process."""

_TEXT_OR_BRACKET: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]'
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
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


def misfit(text: str | bytes) -> str | None:
    """Return what JSON holds that Python reads and Arrow does not, None if nothing.

    Raises:
        json.JSONDecodeError: as `parse_json`.
    """
    found: list[str] = []

    def read_object(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found.extend(
            f"the key {key!r:.40} twice in one object" for key, n in Counter(k for k, _ in items).items() if n > 1
        )
        return dict(items)

    def read_float(number: str) -> float:
        if math.isinf(float(number)):
            found.append(f"the number {number:.20}, which is larger than any float")
        return float(number)

    parse_json(text)
    value = json.loads(text, object_pairs_hook=read_object, parse_float=read_float)
    if _SURROGATE.search(json.dumps(value, ensure_ascii=False)) is not None:
        found.append("one half of a surrogate pair, as of a cut emoji")
    return next(iter(found), None)


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
