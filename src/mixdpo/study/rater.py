"""A rater on top of true grades: blurred grades, so that small margins flip more often, and a share of ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixdpo.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RaterSettings:
    """How a rater differs from the truth.

    Raises:
        InputError: a value is out of its range.
    """

    noise: float = field(
        default=0.7, metadata={"help": "standard deviation of the error of a grade, in the unit of the grades"}
    )
    tie_share: float = field(
        default=0.12, metadata={"help": "share of pairs, those of the smallest observed margins, that are called ties"}
    )

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise InputError(f"bench.rater.noise is {self.noise}; it must be 0 or more")
        if not 0 <= self.tie_share < 1:
            raise InputError(f"bench.rater.tie_share is {self.tie_share}; it must be in [0, 1)")


def rate(rows: Sequence[dict[str, Any]], settings: RaterSettings, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the pairs as a rater sees them.

    Every answer gets its true grade plus a normal error; the answer with the higher observed grade is the chosen one,
    right or not. The pairs of the smallest observed margins become ties: equal grades, the chosen one by a coin flip,
    as where ratings are coarse. A second rater of the same kind gives each pair the column `margin/second_rater`,
    signed by the first one's choice.

    Args:
        rows: pairs with `chosen`, `rejected` and true `score_chosen`, `score_rejected`.
        settings: the rater.
        rng: source of errors and coin flips.
    """
    true = np.array([(row["score_chosen"], row["score_rejected"]) for row in rows], dtype=np.float64).reshape(-1, 2)
    observed = true + settings.noise * rng.standard_normal(true.shape)
    second = true + settings.noise * rng.standard_normal(true.shape)
    coin = rng.random(len(rows))  # also decides pairs whose observed margin is 0 without noise
    margin = observed[:, 0] - observed[:, 1]
    swapped = (margin < 0) | ((margin == 0) & (coin < 0.5))
    ties = np.argsort(np.abs(margin), kind="stable")[: round(settings.tie_share * len(rows))]
    swapped[ties] = coin[ties] < 0.5
    observed[ties] = observed[ties].mean(axis=1, keepdims=True)
    result = []
    for row, (chosen, rejected), other, swap in zip(rows, observed, second, swapped, strict=True):
        sides = ("rejected", "chosen") if swap else ("chosen", "rejected")
        grades = (rejected, chosen) if swap else (chosen, rejected)
        result.append(
            {
                **row,
                "chosen": row[sides[0]],
                "rejected": row[sides[1]],
                "score_chosen": float(grades[0]),
                "score_rejected": float(grades[1]),
                "margin/second_rater": float((other[1] - other[0]) if swap else (other[0] - other[1])),
            }
        )
    return result
