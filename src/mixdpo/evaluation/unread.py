"""Verdicts of a judge that could not be read, and models of which they are too many to rank them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Record = Mapping[str, Any]
"""What a result file says of one model."""
NOT_RANKED: Final = " (not ranked)"
MOST_UNREAD: Final = 0.5
"""Share of a judge's verdicts on a model that could not be read, over which the model is no part of a ranking."""


def unread_verdicts(one: Record) -> tuple[int, int]:
    """Return how many of a judge's verdicts on a model could not be read, and how many there are in all."""
    if "n_error" in one:  # of MT-Bench
        return int(one["n_error"]), int(one["n"])
    unread = int(one.get("n_unread", 0))
    if "n_total" in one:  # of AlpacaEval
        return unread, int(one["n_total"]) + unread
    prompts = int(one.get("n_prompts", 0))
    if "average" in one:  # grades
        return unread, prompts + unread
    games = 2 * (prompts + int(one.get("n_prompts_unread", 0)))
    return unread, max(games, unread)


def is_mostly_unread(one: Record) -> bool:
    """Whether a judge left most verdicts on a model unread: what its mean is of was not drawn by chance."""
    unread, total = unread_verdicts(one)
    return unread > MOST_UNREAD * total


def unread_notes(models: Mapping[str, Record]) -> list[str]:
    """Return a line for each model that is no part of a ranking."""
    found = {model: unread_verdicts(one) for model, one in models.items() if is_mostly_unread(one)}
    return [
        f"{model} is not ranked: {unread:,} of {total:,} verdicts on it could not be read"
        for model, (unread, total) in found.items()
    ]
