"""Comparisons on the same prompts: intervals, exact tests, correction for many, and judges' biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import scipy

from mixdpo.common.statistics import Interval, interval_of_equal, paired_bootstrap, proportion, sign_test

SIGN_TEST: Final = "exact sign test"
SIGN_FLIP_TEST: Final = "sign-flip test of the mean"
_FLIPS = 9_999


@dataclass(frozen=True)
class Difference:
    """How much better the second of two models does than the first, on the prompts both answered.

    Attributes:
        first: name of the first model.
        second: name of the second.
        gain: mean of second - first, with a paired bootstrap interval over prompts; where all differ by the same, with
            Wilson's bound of the share that would not.
        better: prompts on which the second scores higher.
        worse: prompts on which it scores lower.
        p_value: two-sided, of no gain: see `sign_flip_test`.
        p_adjusted: the same, corrected by Holm's method for all comparisons made together.
        test: which test the p-values are of.
    """

    first: str
    second: str
    gain: Interval
    better: int
    worse: int
    p_value: float
    p_adjusted: float
    test: str = SIGN_FLIP_TEST

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Difference:
        """Return the difference that a result file holds."""
        return cls(**{**record, "gain": Interval(**record["gain"])})


def compare_all(scores: Mapping[str, Mapping[str, float]], *, seed: int = 0, level: float = 0.95) -> list[Difference]:
    """Compare every two models on the prompts that both have a score for; see `compare_pairs`."""
    return compare_pairs(scores, list(combinations(scores, 2)), seed=seed, level=level)


def compare_pairs(
    scores: Mapping[str, Mapping[str, float]],
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> list[Difference]:
    """Compare models, the second of each pair with the first, on the prompts that both have a score for.

    Args:
        scores: of each model, the score of each prompt id; larger is better, NaN is none.
        pairs: names of the models; the correction is for all of these comparisons together.
        seed: of the resamples.
        level: of the intervals.

    Raises:
        ValueError: two models share fewer than two scored prompts.
    """
    drawn = []
    for first, second in pairs:
        shared = [id for id in scores[first] if id in scores[second]]
        both = np.array([(scores[first][id], scores[second][id]) for id in shared]).reshape(-1, 2)
        both = both[np.isfinite(both).all(axis=1)]
        if len(both) < 2:
            raise ValueError(f"{first} and {second} share {len(both)} scored prompts; a comparison needs at least 2")
        gain = _gain(both, seed, level)
        better, worse = int((both[:, 1] > both[:, 0]).sum()), int((both[:, 1] < both[:, 0]).sum())
        differences = both[:, 1] - both[:, 0]
        p_value = sign_flip_test(differences, seed=seed)
        drawn.append((first, second, gain, better, worse, p_value, name_of_test(differences)))
    adjusted = holm([row[-2] for row in drawn])
    return [Difference(*row[:-1], p, row[-1]) for row, p in zip(drawn, adjusted, strict=True)]


def _gain(both: np.ndarray, seed: int, level: float) -> Interval:
    """Return the mean of second - first with its interval; `both` holds the scores of the two, (prompts, 2).

    Of differences that are all equal a resample shows nothing else. They get the interval of `interval_of_equal`, on
    the scale from the largest loss to the largest gain that there could be between the scores seen.
    """
    differences = both[:, 1] - both[:, 0]
    if np.ptp(differences) > 0:
        return paired_bootstrap(both[:, 0], both[:, 1], rng=np.random.default_rng(seed), level=level)
    widest = float(np.ptp(both))
    return interval_of_equal(float(differences[0]), len(differences), (-widest, widest), level)


def name_of_test(differences: np.ndarray) -> str:
    """Return which test `sign_flip_test` is of these paired differences."""
    moved = np.abs(differences[differences != 0])
    return SIGN_TEST if not len(moved) or np.ptp(moved) == 0 else SIGN_FLIP_TEST


def sign_flip_test(differences: np.ndarray, *, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean of paired differences, by flipping their signs at random.

    Where all differences but ties are of one size, as of answers that are right or wrong, that is the sign test
    (McNemar's). It is exact there and with few differences; else from 10,000 draws (Phipson and Smyth 2010), so that
    it is 2e-4 at least, one draw on either side.
    """
    moved = differences[differences != 0]
    if not len(moved) or np.ptp(np.abs(moved)) == 0:
        return sign_test(int((moved > 0).sum()), int((moved < 0).sum()))
    found = scipy.stats.permutation_test(
        (moved,), np.mean, permutation_type="samples", vectorized=True, n_resamples=_FLIPS, batch=1000,
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, which bounds the chance of any false finding."""
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * (count - np.arange(count))))
    return adjusted.tolist()


@dataclass(frozen=True)
class Agreement:
    """How often two judges agree, and how much of that is beyond chance (Cohen's kappa)."""

    share: Interval
    kappa: float


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compare two judges' verdicts on the same items.

    Raises:
        ValueError: no items, or lists of different lengths.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} verdicts; two lists of one length are needed")
    from sklearn.metrics import cohen_kappa_score

    same = int((a == b).sum())
    # It is not defined where both judges see the same winner everywhere.
    kappa = 1.0 if same == len(a) else cohen_kappa_score(a, b)
    return Agreement(proportion(same, len(a)), float(kappa))


@dataclass(frozen=True)
class LengthEffect:
    """How verdicts go with length: Spearman's correlation of score and length difference, and how often the longer
    of two answers wins."""

    correlation: float
    p_value: float
    longer_wins: Interval | None


def length_effect(
    score: Sequence[float] | np.ndarray, length_difference: Sequence[float] | np.ndarray
) -> LengthEffect | None:
    """Measure it from scores of the model against the baseline (0 to 1) and (model - baseline) in characters.

    Returns None where all scores or all differences are equal.
    """
    scores, difference = np.asarray(score, dtype=np.float64), np.asarray(length_difference, dtype=np.float64)
    known = np.isfinite(scores)
    scores, difference = scores[known], difference[known]
    if len(scores) < 3 or np.ptp(scores) == 0 or np.ptp(difference) == 0:
        return None
    found = scipy.stats.spearmanr(scores, difference)
    decided = (scores != 0.5) & (difference != 0)
    longer = (scores > 0.5) == (difference > 0)
    wins = proportion(int((longer & decided).sum()), int(decided.sum())) if decided.any() else None
    return LengthEffect(float(found.statistic), float(found.pvalue), wins)
