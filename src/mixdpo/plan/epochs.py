"""From a plan's order to the pairs of each epoch."""

from __future__ import annotations

import numpy as np

from mixdpo.plan.pacing import paced_order
from mixdpo.plan.plan_settings import PlanSettings


def rows_of_epoch(
    rows: np.ndarray, is_hard: np.ndarray, settings: PlanSettings, epoch: int, epochs: int, length: int
) -> np.ndarray:
    """Return what one epoch of several trains, in order; int64, shape (length,).

    Args:
        rows: the pairs to train, in the plan's order.
        is_hard: of each of them, whether the threshold took it.
        settings: of the plan.
        epoch: which epoch, from 0.
        epochs: of the whole run.
        length: pairs of an epoch; more than there are `rows` where they are repeated.
    """
    if not len(rows):
        return rows
    start, end = epoch * length, (epoch + 1) * length
    if settings.epochs == "staged":
        first_part = is_hard == is_hard[0]
        return np.concatenate([np.tile(rows[first_part], epochs), np.tile(rows[~first_part], epochs)])[start:end]
    if settings.pacing is not None:
        rng = np.random.default_rng([settings.seed, 2])
        return _stretched(rows, epochs * length)[paced_order(epochs * length, settings.pacing, rng)[start:end]]
    if settings.order != "shuffled":
        return _stretched(rows, length)
    n = len(rows)
    passes = range(start // n, -(-end // n))
    places = np.concatenate([_pass(settings.seed, number, n) for number in passes])
    places = places[start - passes.start * n :][:length]
    return rows[places[np.argsort(part_rank(is_hard[places], settings.first), kind="stable")]]


def part_rank(is_hard: np.ndarray, first: str | None) -> np.ndarray:
    """Return 0 for pairs of the part trained first and 1 for the others (all 0 when there are no parts)."""
    if first is None:
        return np.zeros(len(is_hard), dtype=np.int8)
    return (is_hard != (first == "hard")).astype(np.int8)


def _stretched(rows: np.ndarray, length: int) -> np.ndarray:
    """Repeat each pair next to itself, all equally often up to one."""
    return rows[np.arange(length) * len(rows) // length]


def _pass(seed: int, number: int, n: int) -> np.ndarray:
    """Return the places of the pairs in one pass over a shuffled plan; the first pass keeps the plan's own order."""
    return np.random.default_rng([seed, number]).permutation(n) if number else np.arange(n)
