"""What games on the same prompts say: who wins, what could have been seen, and what would be left at equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy

from mixdpo.common.statistics import Interval, score_share, sign_test
from mixdpo.evaluation.statistics.paired import name_of_test, sign_flip_test

LEVEL: Final = 0.95
POWER: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often a model beats another, over prompts; ties count half.

    Attributes:
        share: of prompts, 0 to 1, with Wilson's interval; see `score_share`.
        p_value: two-sided, of no difference.
        test: that the p-value is of.
        detectable: the win rate, 0 to 1, that as many prompts would find with a probability of 0.8; None where no
            win rate would do.
        prompts: number of prompts.
    """

    share: Interval
    p_value: float
    test: str
    detectable: float | None
    prompts: int

    @property
    def is_clear(self) -> bool:
        """Whether there is a difference: by the test, and by the interval."""
        return self.p_value < 1 - LEVEL and not self.share.low <= 0.5 <= self.share.high


def win_rate(scores: Sequence[float] | np.ndarray, seed: int = 0) -> WinRate:
    """Estimate a win rate from a score per prompt, 0 (lost) to 1 (won); `seed` is that of the test's draws.

    Raises:
        ValueError: no scores.
    """
    known = np.asarray(scores, dtype=np.float64)
    share, p_value = score_share(known, LEVEL), sign_flip_test(known - 0.5, seed=seed)
    spread = float(np.sqrt(np.mean((known - 0.5) ** 2)))
    return WinRate(
        share=share,
        p_value=p_value,
        test=name_of_test(known - 0.5),
        # Of ties alone nothing is known of how other prompts would vary.
        detectable=detectable_win_rate(len(known), spread or 0.5),
        prompts=len(known),
    )


def detectable_win_rate(prompts: int, spread: float = 0.5) -> float | None:
    """Return the smallest win rate above 1/2 that a two-sided test at 5 % finds with a probability of 0.8.

    Args:
        prompts: number of prompts.
        spread: root mean square of the scores' distances from 1/2: 1/2 without ties, less with them.

    Returns:
        The win rate, 0.5 to 1; None where so few prompts would find none.
    """
    at_level, at_power = scipy.stats.norm.ppf([(1 + LEVEL) / 2, POWER])
    if sign_test(prompts, 0) >= 1 - LEVEL:
        return None

    def missing(gain: float) -> float:
        return float((at_level * spread + at_power * np.sqrt(max(0.0, spread**2 - gain**2))) / np.sqrt(prompts) - gain)

    largest = 2 * spread**2  # then every prompt that is no tie is won
    return 0.5 + float(scipy.optimize.brentq(missing, 0.0, largest)) if missing(largest) < 0 else None


@dataclass(frozen=True, kw_only=True)
class EqualLength:
    """What a win rate would be if the answers were of one length.

    A straight line through the scores (0 to 1) against the difference of lengths, (own - other) / (own + other).

    Attributes:
        share: the win rate where the difference is 0, with Student's interval within 0 and 1.
        explained: how much of the win rate's distance from 1/2 goes with length.
    """

    share: Interval
    explained: float


def equal_length(scores: np.ndarray, own: np.ndarray, other: np.ndarray) -> EqualLength | None:
    """Return the win rate at equal length; None where it cannot be told, as one side is always the longer.

    Args:
        scores: of each prompt, 0 to 1, NaN for none, (prompts,).
        own: lengths of the model's answers in characters, (prompts,).
        other: of the other's.
    """
    known = np.isfinite(scores) & (own + other > 0)
    scores, difference = scores[known], ((own - other)[known]) / ((own + other)[known])
    if len(scores) < 10 or not difference.min() < 0 < difference.max() or np.ptp(scores) == 0:
        return None
    line = scipy.stats.linregress(difference, scores)
    reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(scores) - 2)) * float(line.intercept_stderr)
    at_equal = float(line.intercept)
    ends = np.clip([at_equal, at_equal - reach, at_equal + reach], 0, 1).tolist()
    share = Interval(estimate=ends[0], low=ends[1], high=ends[2], level=LEVEL)
    return EqualLength(share=share, explained=float(scores.mean() - at_equal))
