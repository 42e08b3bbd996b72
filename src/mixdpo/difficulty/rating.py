"""The rating metric: margins from the scores that come with the data (paper, section 2)."""

from __future__ import annotations

from datasets import Dataset

from mixdpo.data import float_column
from mixdpo.errors import InputError


def rating_margin(dataset: Dataset) -> list[float]:
    """Return score_chosen - score_rejected for every pair, or the data's own `margin` column."""
    if {"score_chosen", "score_rejected"} <= set(dataset.column_names):
        return (float_column(dataset, "score_chosen") - float_column(dataset, "score_rejected")).tolist()
    if "margin" in dataset.column_names:
        return float_column(dataset, "margin").tolist()
    raise InputError(
        "the rating metric needs scores, and the data has none",
        mend="name the score columns with `columns: {score_chosen: ..., score_rejected: ...}` or a `margin` column",
    )
