"""How good the answers of pairs are against a policy's own answers to the same prompts, as columns of the pairs.

A margin says how far two answers are apart, and nothing of whether either is good. `rate --against` writes the columns
(see `pairs/against.py`); the audit and the plan read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.data.columns import is_quality

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """How good the answers of N pairs are against a policy's; float64 of shape (N,), NaN where it is not known.

    Attributes:
        chosen: rating of the chosen answer minus the mean rating of the policy's answers to the prompt.
        rejected: that of the rejected answer.
        chosen_wins: share of the policy's answers that the chosen one is rated above; a tie counts half.
        rejected_wins: that of the rejected answer.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_wins: np.ndarray
    rejected_wins: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Bool, shape (N,): the pairs of which the chosen answer has one."""
        return ~np.isnan(self.chosen)


def quality_of(pairs: Dataset) -> dict[str, Quality]:
    """Return what the columns `quality/NAME/...` of pairs say, by name of the policy, in the order of the columns."""
    from mixdpo.data.arrays import float_column

    names = list(dict.fromkeys(name.split("/")[1] for name in pairs.column_names if is_quality(name)))

    def column(policy: str, side: str) -> np.ndarray:
        name = f"quality/{policy}/{side}"
        return float_column(pairs, name) if name in pairs.column_names else np.full(len(pairs), np.nan)

    return {name: Quality(**{side.name: column(name, side.name) for side in fields(Quality)}) for name in names}


def with_quality(pairs: Dataset, policy: str, quality: Quality) -> Dataset:
    """Return pairs with the columns `quality/<policy>/...`, replaced if they exist; null where not known."""
    from datasets import Value

    for side in fields(Quality):
        name, values = f"quality/{policy}/{side.name}", getattr(quality, side.name)
        if name in pairs.column_names:
            pairs = pairs.remove_columns(name)
        known = [None if np.isnan(value) else value for value in values.tolist()]
        pairs = pairs.add_column(name, known, feature=Value("float64"))
    return pairs


def against(rating: float, own: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the difference of a rating to the mean of a policy's, and the share of them that it is above, ties half.

    Ratings that could not be read (NaN) are left out of the policy's; both numbers are NaN where nothing is left.
    """
    known = np.asarray(own, dtype=np.float64)
    known = known[~np.isnan(known)]
    if np.isnan(rating) or not len(known):
        return np.nan, np.nan
    return float(rating - known.mean()), float(((rating > known) + 0.5 * (rating == known)).mean())
