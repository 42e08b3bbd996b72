"""The order of pairs: ranks of margins, and every pair's place in a plan."""

from __future__ import annotations

import numpy as np

from mixdpo.plan.epochs import part_rank
from mixdpo.plan.plan_settings import PlanSettings


def positions(settings: PlanSettings, margin: np.ndarray, is_hard: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Return each pair's place in the plan, dropped ones last; int64, shape (N,)."""
    n = len(margin)
    within = {
        "easy_to_hard": lambda: easy_rank(margin, settings.seed),
        "hard_to_easy": lambda: n - 1 - easy_rank(margin, settings.seed),
        "shuffled": lambda: _random_rank(n, settings.seed),
        "as_is": lambda: np.arange(n),
    }[settings.order]()
    rows = np.lexsort((within, part_rank(is_hard, settings.first), dropped))
    position = np.empty(n, dtype=np.int64)
    position[rows] = np.arange(n)
    return position


def easy_rank(margin: np.ndarray, seed: int) -> np.ndarray:
    """Return each pair's place from easiest to hardest, equal margins in an order drawn from the seed; int64."""
    rank = np.empty(len(margin), dtype=np.int64)
    rank[np.lexsort((_random_rank(len(margin), seed), -margin))] = np.arange(len(margin))
    return rank


def _random_rank(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


def difficulty_quantile(margin: np.ndarray) -> np.ndarray:
    """Rank margins from easiest (0) to hardest (1); equal margins share their mean rank; NaN stays NaN."""
    if len(margin) == 1 or np.isnan(margin).any():
        return np.where(np.isnan(margin), np.nan, 0.0)
    # Not scipy.stats.rankdata: importing it takes longer than all else that `mixdpo plan` does with a small file.
    _, inverse, counts = np.unique(-margin, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[inverse] / (len(margin) - 1)
