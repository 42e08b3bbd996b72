"""Length bias: is the chosen answer the longer one, by how much, and at which margins?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl

from mixdpo.auditing.statistics import mean, rank_correlation, share, standardised_mean

BUCKETS: Final = 10


def length_figures(features: pl.DataFrame, margin: np.ndarray | None) -> dict[str, Any]:
    """Compare the words of chosen and rejected answers.

    Args:
        features: `surface_features` of the data.
        margin: float64 of shape (N,), NaN where missing; None without margins.

    Returns:
        `longer`: share of pairs of unequal length whose chosen answer is longer; `ratio`: geometric mean of chosen
        over rejected length; `d`: Cohen's d of the log ratio; `buckets`: `longer` by tenth of the margin, hardest
        first; `correlation` of the log ratio with the margin.
    """
    chosen = features["chosen/words"].to_numpy().astype(np.float64)
    rejected = features["rejected/words"].to_numpy().astype(np.float64)
    log_ratio = np.log(np.maximum(chosen, 1)) - np.log(np.maximum(rejected, 1))
    ratio = mean(log_ratio)
    exponent = {key: value if value is None or key == "n" else float(np.exp(value)) for key, value in ratio.items()}
    return {
        "longer": _longer(chosen, rejected),
        "equal": int((chosen == rejected).sum()),
        "ratio": exponent,
        "d": standardised_mean(log_ratio),
        "buckets": [] if margin is None else _by_margin(chosen, rejected, margin),
        "correlation": None if margin is None else rank_correlation(log_ratio, margin),
    }


def _longer(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float | int | None]:
    return share(int((chosen > rejected).sum()), int((chosen != rejected).sum()))


def _by_margin(chosen: np.ndarray, rejected: np.ndarray, margin: np.ndarray) -> list[dict[str, Any]]:
    known = margin[np.isfinite(margin)]
    # Equal margins stay together, so data with few distinct margins has fewer buckets.
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BUCKETS + 1))) if len(known) else np.array([])
    if len(edges) < 2:
        return []
    bucket = np.clip(np.searchsorted(edges, margin, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for number in range(len(edges) - 1):
        inside = (bucket == number) & np.isfinite(margin)
        if inside.any():
            ends = {"low": float(margin[inside].min()), "high": float(margin[inside].max())}
            rows.append({**ends, "pairs": int(inside.sum()), "longer": _longer(chosen[inside], rejected[inside])})
    return rows
