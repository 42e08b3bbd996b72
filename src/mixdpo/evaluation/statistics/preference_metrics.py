"""Metrics of preference without a judge: how a model ranks held-out pairs, and where their probability went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixdpo.common.statistics import Interval, both_ends, clustered_mean, proportion


@dataclass(frozen=True)
class PairValues:
    """Log-probabilities of pairs, sums over tokens in nats; arrays of shape (N, 2): chosen, rejected.

    Attributes:
        policy: under the model.
        tokens: number of tokens.
        reference: under the model it was trained from; None without one.
        beta: of the implicit reward, per nat.
    """

    policy: np.ndarray
    tokens: np.ndarray
    reference: np.ndarray | None = None
    beta: float = 0.1

    def columns(self) -> dict[str, np.ndarray]:
        """Return one array of shape (N,) per metric, of which `summarise_pairs` gives the means.

        With a reference: `accuracy` (the implicit reward beta * log pi/pi_ref of the chosen answer is larger; equal
        is wrong), `reward_margin`, `displacement_chosen` and `displacement_rejected` (log pi - log pi_ref in nats
        per answer), `chosen_fell` (the chosen answer lost probability). Always: `logp_accuracy` and
        `per_token_accuracy`, the same ranking by log pi and by its mean over tokens.
        """
        found = {}
        if self.reference is not None:
            change = self.policy - self.reference
            margin = self.beta * (change[:, 0] - change[:, 1])
            found = {
                "accuracy": margin > 0,
                "reward_margin": margin,
                "displacement_chosen": change[:, 0],
                "displacement_rejected": change[:, 1],
                "chosen_fell": change[:, 0] < 0,
            }
        per_token = self.policy / self.tokens
        return found | {
            "logp_accuracy": self.policy[:, 0] > self.policy[:, 1],
            "per_token_accuracy": per_token[:, 0] > per_token[:, 1],
        }


def summarise_pairs(
    columns: Mapping[str, np.ndarray],
    prompt: np.ndarray,
    buckets: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Return the means of metrics with intervals over prompts, for all pairs and under `buckets` for parts of them.

    Shares (bool columns) are in percent. Of pairs with a prompt each they have Wilson's intervals; all others
    resample prompts, whose pairs are not independent.

    Args:
        columns: by metric, one value per pair, (N,).
        prompt: id of each pair's prompt, (N,).
        buckets: by name, the pairs (indices) that belong to it; empty ones are left out.
        seed: of the resamples.
        level: of the intervals.
    """
    result = _means(columns, prompt, np.arange(len(prompt)), seed, level)
    parts = {name: _means(columns, prompt, rows, seed, level) for name, rows in buckets.items() if len(rows)}
    return result | ({"buckets": parts} if parts else {})


def _means(
    columns: Mapping[str, np.ndarray], prompt: np.ndarray, rows: np.ndarray, seed: int, level: float
) -> dict[str, Any]:
    clusters = prompt[rows]
    prompts = len(np.unique(clusters))
    result: dict[str, Any] = {}
    for name, values in columns.items():
        own, unit = values[rows], 100 if values.dtype == bool else 1
        if unit == 100 and prompts == len(rows):
            found: Interval = proportion(int(own.sum()), len(own), level)
        else:
            scale = (0.0, 1.0) if unit == 100 else None
            found = clustered_mean(own, clusters, rng=np.random.default_rng(seed), level=level, scale=scale)
        result[name] = unit * found.estimate
        result[f"{name}_interval"] = both_ends(found, unit)
    return result | {"n": len(rows), "n_prompts": prompts}
