"""What of the conversations is trained in a family of chat templates, by hand.

`NAME.txt` says for the conversations of `CASES` what the template writes and which of it is trained. A part begins
with `=== CASE`. Lines that begin with `!` name a count of the token report that is not 0, its value, and why; above
the first part, for all of them. Then follow the prompt, a `¦`, and the completion of the chosen answer, and below
`--- rejected` that of the rejected one. What stands between « and » is trained. `{%d %b %Y}` is today's date.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from families import FOLDER

Segments = list[tuple[bool, str]]


@dataclass(frozen=True)
class Expected:
    """What a family makes of a case: counts that are not 0, and texts with whether they are trained."""

    counts: dict[str, int]
    prompt: str
    chosen: Segments
    rejected: Segments


@cache
def expected_of(name: str) -> dict[str, Expected]:
    """Read `NAME.txt`: by case, what is expected."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    above, *parts = re.split(r"^=== (.*)\n", text, flags=re.M)
    return {
        case: _expected(above + part.removesuffix("\n")) for case, part in zip(parts[::2], parts[1::2], strict=True)
    }


def _expected(part: str) -> Expected:
    text = re.sub(r"^! .*\n?", "", part, flags=re.M)
    lines = part.removesuffix(text)
    counts = {name: int(count) for name, count in re.findall(r"^! (\w+) (\d+): .", lines, re.M)}
    assert len(counts) == lines.count("! "), f"a count without a reason: {lines}"
    text = re.sub(r"\{(%[^}]*)\}", lambda found: datetime.now().strftime(found[1]), text)
    both, _, rejected = text.partition("\n--- rejected\n")
    prompt, _, chosen = both.partition("¦")
    return Expected(counts, prompt, _segments(chosen), _segments(rejected))


def _segments(text: str) -> Segments:
    pieces = re.split("[«»]", text)
    return [(bool(i % 2), piece) for i, piece in enumerate(pieces) if piece]
