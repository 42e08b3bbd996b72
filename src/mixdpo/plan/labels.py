"""How sure the label of each pair is: read from the data, or from how often other metrics agree with it.

Let a signal prefer the better answer with probability q, whatever the margin, and independently of the label. Where a
label is right with probability P, the signal then agrees with it with probability a = P q + (1 - P) (1 - q), so that

    2 P - 1 = (a - 1/2) / (q - 1/2)

and the same holds of a weighted vote of several signals. q is taken as the agreement that the easiest third attains,
that is: labels there count as right. So 2 P - 1 is the share of the agreement beyond chance that labels keep, which
`trust` of `threshold: auto` compares with.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import float_column, place_of
from mixdpo.data.training_columns import LABEL_PROBABILITY, hint, largest
from mixdpo.plan.agreement_curve import AgreementCurve
from mixdpo.plan.plan_settings import LabelProbability

if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BinLabels:
    """Probability that a label of a margin bin is right.

    Attributes:
        probability: the estimate: of the agreements the nearest that do not fall as the margin grows.
        low: bound of it, from that of the agreement and the attained one taken as known; `high` likewise.
    """

    probability: float
    low: float
    high: float


def label_probabilities(
    dataset: Dataset, source: LabelProbability | None, margin: np.ndarray, curve: AgreementCurve | None
) -> np.ndarray | None:
    """Return the probability that each pair's label is right; float64 in [0, 1] of shape (N,).

    Args:
        dataset: the pairs.
        source: `column`, `agreement`, or None for no probabilities.
        margin: float64 of shape (N,), which finds each pair's bin.
        curve: of these pairs and margins, for `agreement`.

    Raises:
        InputError: there is no such column or a wrong value in it, or no signal judges the labels.

    What makes the agreement doubtful is warned of.
    """
    if source is None:
        return None
    if source == "column":
        return training_column(dataset, LABEL_PROBABILITY, "plan.label_probability")
    from mixdpo.plan.threshold import cautions  # with scipy, so only where it is needed

    assert curve is not None
    bins = labels_by_bin(curve)
    for caution in cautions(margin, curve.bins):
        logger.warning(f"label_probability agreement: {caution}")
    ends = [item.margin_max for item in curve.bins]
    return np.array([item.probability for item in bins])[np.searchsorted(ends, margin, side="left")]


def labels_by_bin(curve: AgreementCurve) -> Sequence[BinLabels]:
    """Return what the agreement of the signals in each bin says of its labels, in the order of `curve.bins`.

    The estimate is the point, not a bound: losses take an expectation over the label, which a bound would shift
    towards distrust, and the more so the fewer pairs there are.

    Raises:
        InputError: no signal judges the labels.
    """
    from scipy.optimize import isotonic_regression

    if curve.attained is None:
        raise InputError(
            f"label_probability agreement has nothing to judge the labels by. {curve.reason}",
            hint="add a metric such as nll_gap with `mixdpo score`, or give a column label_probability",
        )
    agreement = np.array([item.agreement for item in curve.bins])
    rising = isotonic_regression(agreement, weights=np.array([item.pairs for item in curve.bins])).x
    ends = np.array([[item.low, item.high] for item in curve.bins])
    kept = (np.column_stack([rising, ends]) - 0.5) / (curve.attained - 0.5)
    return [
        BinLabels(probability=float(point), low=float(low), high=float(high))
        for point, low, high in np.clip(0.5 + kept / 2, 0, 1)
    ]


def training_column(dataset: Dataset, name: str, setting: str) -> np.ndarray:
    """Return a column of weights or of label probabilities, which the plan's `setting` asks for; float64 (N,).

    Raises:
        InputError: there is none, or a value is not in its range (data sets need not come from `load_pairs`).
    """
    if name not in dataset.column_names:
        raise InputError(f"there is no such column for {setting}", column=name, hint="add it to the data")
    try:
        values = float_column(dataset, name)
    except (ValueError, TypeError):
        raise InputError(f"{setting} reads numbers, and this column has others", column=name) from None
    bad = np.flatnonzero(~((values >= 0) & (values <= largest(name))))
    if len(bad):
        row = int(bad[0])
        raise InputError(f"the value is {values[row]:g}", **place_of(dataset, row), column=name, hint=hint(name))
    return values
