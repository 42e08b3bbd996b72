"""Labels of a comparison of two answers, such as `A>>B`: what they are worth, and which one a score stands for."""

from __future__ import annotations

import re
from typing import Final

STRICT_LABEL: Final = re.compile(r"\[\[([AB<>=]+)\]\]")
"""What a judgement ends with, such as `[[A>>B]]`."""

STRONG = 3
"""Battles that a game with a significant winner counts for."""

_FOR_A: Final = {">>": (1.0, STRONG), ">": (1.0, 1), "=": (0.5, 1), "<": (0.0, 1), "<<": (0.0, STRONG)}


def score_of_a(label: str | None) -> tuple[float, int] | None:
    """Return the score of assistant A (1, 0.5 or 0) and for how many battles it counts, or None for no valid label."""
    if label is None or len(label) < 3 or {label[0], label[-1]} != {"A", "B"} or label[1:-1] not in _FOR_A:
        return None
    score, battles = _FOR_A[label[1:-1]]
    return (score, battles) if label[0] == "A" else (1 - score, battles)


def label_of(score: float) -> str:
    """Return the label of a score that says how much the first of two answers is preferred."""
    return "A>B" if score > 0.5 else "B>A" if score < 0.5 else "A=B"
