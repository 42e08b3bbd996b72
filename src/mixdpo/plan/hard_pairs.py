"""Which pairs a threshold takes: under a margin, a share of the hardest or easiest, outside a band, or by a column."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import float_column, place_of
from mixdpo.plan.plan_settings import Band, Threshold, band_of

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def hard_pairs(dataset: Dataset, margin: np.ndarray, easy_rank: np.ndarray, threshold: Threshold) -> np.ndarray:
    """Return which pairs a threshold takes; bool, shape (N,).

    Args:
        dataset: the pairs, read for `{column: NAME}` only.
        margin: float64, larger = easier.
        easy_rank: int64, each pair's place from easiest (0) to hardest.
        threshold: any but `auto`, which is a margin by now.

    Raises:
        InputError: a margin outside the data, or a column that is missing or not of yes and no.
    """
    if threshold is None:
        return np.zeros(len(margin), dtype=bool)
    if isinstance(threshold, Mapping):
        band = band_of(threshold)
        return _yes(dataset, str(threshold["column"])) if band is None else _outside(easy_rank, band)
    is_hard = margin < threshold
    if is_hard.all() or not is_hard.any():
        where = "above every margin" if is_hard.all() else "not above any margin"
        raise InputError(
            f"the threshold {threshold:g} is {where} (they run from {margin.min():g} to {margin.max():g})",
            hint="choose one in between, {hardest: f}, or null to route nothing",
        )
    return is_hard


def _outside(easy_rank: np.ndarray, band: Band) -> np.ndarray:
    n = len(easy_rank)
    return (easy_rank < _round(band.easiest * n)) | (easy_rank >= n - _round(band.hardest * n))


def _round(pairs: float) -> int:
    return int(np.floor(pairs + 0.5))  # Python's round() sends halves to the even number


def _yes(dataset: Dataset, name: str) -> np.ndarray:
    """Return a column of true and false, or of 1 and 0, as bool."""
    if name not in dataset.column_names:
        raise InputError("there is no such column for plan.threshold", column=name, hint="add it to the data")
    try:
        values = float_column(dataset, name)
    except ValueError:
        raise InputError("plan.threshold reads true or false, and this is neither", column=name) from None
    bad = np.flatnonzero((values != 0) & (values != 1))
    if len(bad):
        raise InputError(
            "plan.threshold reads true or false, and this is neither", **place_of(dataset, int(bad[0])), column=name
        )
    if not values.any():
        logger.warning(f"plan.threshold takes no pair: column {name!r} is false throughout")
    return values == 1
