"""The rating metric: margins from the scores that come with the data (paper, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.common.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class RatingSettings:
    """The rating metric has nothing to set."""


def rating(dataset: Dataset, settings: RatingSettings) -> np.ndarray:
    """Return score_chosen - score_rejected of every pair, or the data's own `margin` column; float64, shape (N,)."""
    from mixdpo.data.arrays import float_column

    if {"score_chosen", "score_rejected"} <= set(dataset.column_names):
        return float_column(dataset, "score_chosen") - float_column(dataset, "score_rejected")
    if "margin" in dataset.column_names:
        return float_column(dataset, "margin")
    raise InputError(
        "the rating metric needs scores, and the data has none",
        hint="name the score columns with `columns: {score_chosen: ..., score_rejected: ...}` or a `margin` column; "
        "or take a metric that a model computes, such as nll_gap",
    )
