"""Numbers of a map as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with its sign; one that rounds to zero has none."""
    text = f"{value:+.{digits}f}".replace("-", "\u2212")
    return text if text.strip("+\u22120.") else text[1:]


def plain(value: float | None, digits: int = 3) -> str:
    """Write a level; `-` for one that is missing."""
    return "-" if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Write an estimate and the two ends of its interval."""
    estimate, low, high = (signed(value, digits) for value in values)
    return f"{estimate} ({low} to {high})"


def effect_text(effect: Mapping[str, Any] | None) -> str:
    """Write an effect of `map.json` with its interval, in reward; nothing where there is none."""
    return "" if effect is None else interval([effect["estimate"], effect["low"], effect["high"]])


def p_text(value: float) -> str:
    """Write a p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
