"""The ratings of several judges in one unit, so that their mean says something."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixdpo.pairs.answered import Answer
from mixdpo.pairs.judged import RAW_RATING, Judged


@dataclass(frozen=True)
class Together:
    """Ratings of the answers that are judged, by judge; arrays have one number for each, NaN for none.

    Attributes:
        ratings: larger is better, of all judges in one unit.
        raw: as the judge gave them, of those whose ratings were turned round or standardised.
        units: see `Judged`; None where they are standardised.
        standardised: whether ratings have mean 0 and deviation 1 over all answers.
    """

    ratings: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]
    units: dict[str, str | None]
    standardised: bool

    def scores(self) -> np.ndarray:
        """Return means over all judges; NaN where one gave no rating: means over different judges do not compare."""
        return np.mean(list(self.ratings.values()), axis=0)


def put_together(
    answers: Sequence[Answer], judged: Mapping[str, Judged], lower_is_better: bool, before: Mapping[str, str | None]
) -> Together:
    """Put new ratings and those that answers have from other judges into one unit.

    Ratings of one judge, and of several in the same known unit, stay as they are. Others are standardised.

    Args:
        answers: those that were judged.
        judged: what each new judge said of them.
        lower_is_better: turn the new ratings round.
        before: units of the ratings that answers have, as far as they are known.
    """
    others = dict.fromkeys(name for answer in answers for name in answer.ratings if name not in judged)
    turned = {name: -one.ratings if lower_is_better else one.ratings for name, one in judged.items()}
    ratings = {name: np.array([answer.ratings.get(name, math.nan) for answer in answers]) for name in others} | turned
    units = {name: judged[name].unit if name in judged else before.get(name) for name in ratings}
    alike = len(ratings) == 1 or (None not in units.values() and len(set(units.values())) == 1)
    raw = {name: found for name in others if (found := _raw_before(answers, name)) is not None}
    if lower_is_better:
        raw |= {name: one.ratings for name, one in judged.items()}
    if alike:
        return Together(ratings, raw, units, standardised=False)
    standardised = {name: _standardised(values) for name, values in ratings.items()}
    return Together(standardised, ratings | raw, dict.fromkeys(ratings), standardised=True)


def _raw_before(answers: Sequence[Answer], name: str) -> np.ndarray | None:
    column = f"{RAW_RATING}{name}"
    if not any(column in answer.columns for answer in answers):
        return None
    return np.array([math.nan if (one := answer.columns.get(column)) is None else one for answer in answers])


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and deviation 1; those that are all equal become 0."""
    known = values[np.isfinite(values)]
    if not len(known) or np.ptp(known) == 0:
        return 0 * values
    return (values - known.mean()) / known.std()
