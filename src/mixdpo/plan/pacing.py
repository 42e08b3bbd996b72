"""Pacing: how the pool of easiest pairs grows with a run, and the order that draws from it.

Source of the pools: "Competence-based Curriculum Learning for Neural Machine Translation" (Platanios et al. 2019,
arXiv 1903.09848), which draws with repetition; here every pair keeps its number of turns.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mixdpo.plan.plan_settings import Pacing

START: Final = 0.01
"""Share of the pairs in the pool when a run begins (c0 of the paper, its value)."""


def pool_share(progress: np.ndarray | float, pacing: Pacing, start: float = START) -> np.ndarray:
    """Return the share of the easiest pairs that a run may draw from, float64 in [start, 1].

    linear: c(t) = min(1, start + (1 - start) t); sqrt: c(t) = min(1, sqrt(start^2 + (1 - start^2) t)).

    Args:
        progress: t, the share of the run that is done, from 0 to 1.
        pacing: how the pool grows; under `sqrt` the slower, the larger it is, so that a new pair's chance stays equal.
        start: share at the beginning, in (0, 1].
    """
    power = 2 if pacing == "sqrt" else 1
    grown = start**power + (1 - start**power) * np.asarray(progress, dtype=np.float64)
    return np.minimum(1.0, grown ** (1 / power))


def paced_order(length: int, pacing: Pacing, rng: np.random.Generator) -> np.ndarray:
    """Return a random order of the places of a sorted run that takes each once; int64, shape (length,).

    The k-th is drawn from those of the first `pool_share(k / length)` of the places that are left. Both pools are
    always larger than what was drawn from them: under `linear` by a hundredth of what is to come, so that the order
    is nearly sorted; under `sqrt` by up to a quarter of the run.
    """
    draws = np.arange(length)
    pool = np.maximum(np.ceil(pool_share(draws / max(length, 1), pacing) * length), draws + 1).astype(np.int64)
    uniform = rng.random(length)
    left: list[int] = []
    order = np.empty(length, dtype=np.int64)
    seen = 0
    for draw, (size, number) in enumerate(zip(pool.tolist(), uniform.tolist(), strict=True)):
        left.extend(range(seen, size))
        seen = size
        place = int(number * len(left))
        left[place], left[-1] = left[-1], left[place]
        order[draw] = left.pop()
    return order
