"""The agreement metric: how surely several annotators prefer the chosen answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges

if TYPE_CHECKING:
    from datasets import Dataset

RATINGS: Final = ("ratings_chosen", "ratings_rejected")
"""Columns of lists: each annotator's rating of the answer, annotators in the same order in both."""


@dataclass(frozen=True, kw_only=True)
class AgreementSettings:
    """Settings of the metric `agreement`."""

    prior: float = field(
        default=4.0,
        metadata={
            "help": "degrees of freedom that the spread of the whole data set counts for in each pair",
            "above": 0,
        },
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def agreement_margin(dataset: Dataset, settings: AgreementSettings) -> np.ndarray:
    """Return the mean difference of the annotators' ratings over its moderated standard error, float64 of shape (N,).

    With d_j the difference of annotator j's two ratings, R annotators and s0^2 the variance of d_j around the means
    of their pairs, pooled over all pairs:

        s^2 = (prior s0^2 + sum_j (d_j - mean d)^2) / (prior + R - 1)        margin = mean d / sqrt(s^2 / R)

    Two to five annotators are too few for a standard error of their own: on a scale of whole points they often agree
    to the point, and a plain t is then infinite, however small the difference. The share of them that prefers the
    chosen answer has few values and forgets by how much. Moderation (Smyth 2004, doi:10.2202/1544-6115.1027) lends
    each pair the spread of all. A missing rating (null or NaN) leaves out its annotator, for this pair; a pair
    without annotators has 0.

    Raises:
        InputError: a column is missing, two lists differ in length, or annotators never differ.
    """
    for column in RATINGS:
        if column not in dataset.column_names:
            raise InputError(
                "the agreement metric needs each annotator's ratings, and the data has none",
                column=column,
                hint="name both columns with `columns: {ratings_chosen: ..., ratings_rejected: ...}`",
            )
    difference, pair = _differences(dataset)
    n = len(dataset)
    count = np.bincount(pair, minlength=n)
    mean = np.bincount(pair, difference, minlength=n) / np.maximum(count, 1)
    squares = np.bincount(pair, (difference - mean[pair]) ** 2, minlength=n)
    freedom = np.maximum(count - 1, 0)
    if squares.sum() == 0:
        raise InputError(
            "no two annotators differ on any pair, so their agreement says nothing",
            hint="use the rating metric, with the mean of the ratings as score",
        )
    pooled = squares.sum() / freedom.sum()
    variance = (settings.prior * pooled + squares) / (settings.prior + freedom)
    return mean * np.sqrt(count / variance)


def _differences(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences of all annotators and the pair of each, float64 and int64 of shape (ratings,)."""
    table = dataset.select_columns(list(RATINGS)).with_format("arrow")[:]
    chosen, rejected = (table[name].combine_chunks() for name in RATINGS)
    count, other = (lists.value_lengths().fill_null(0).to_numpy() for lists in (chosen, rejected))
    bad = np.flatnonzero(count != other)
    if len(bad):
        from mixdpo.data.arrays import place_of

        row = int(bad[0])
        raise InputError(
            f"the chosen answer has {count[row]} ratings and the rejected one {other[row]}",
            **place_of(dataset, row),
            column=RATINGS[1],
            hint="give both in the order of the same annotators, with null where one is missing",
        )
    first, second = (lists.flatten().to_numpy(zero_copy_only=False) for lists in (chosen, rejected))
    difference = first.astype(np.float64) - second.astype(np.float64)
    known = np.isfinite(difference)
    return difference[known], np.repeat(np.arange(len(dataset)), count)[known]
