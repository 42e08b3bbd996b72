"""Win rates of games: Wilson's interval with ties as halves, tests, power by simulation, and equal length."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from mixdpo.common.statistics import proportion, score_share, sign_test
from mixdpo.evaluation.statistics.paired import SIGN_FLIP_TEST, SIGN_TEST
from mixdpo.evaluation.statistics.win_rates import detectable_win_rate, equal_length, win_rate


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Both ends, as roots of (share - p)^2 = z^2 p (1 - p) / trials."""
    z = scipy.stats.norm.ppf(0.975)
    low, high = np.sort(np.roots([1 + z**2 / trials, -2 * share - z**2 / trials, share**2]))
    return float(low), float(high)


@pytest.mark.parametrize(("won", "lost"), [(19, 3), (3, 19), (58, 42), (5, 0), (0, 5)])
def test_without_ties_the_interval_is_wilsons(won: int, lost: int) -> None:
    found, expected = score_share([1.0] * won + [0.0] * lost), proportion(won, won + lost)
    assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high))


def test_ties_count_half_and_make_the_interval_narrower() -> None:
    scores = np.array([1.0] * 30 + [0.5] * 40 + [0.0] * 10)
    found = score_share(scores)
    trials = len(scores) * found.estimate * (1 - found.estimate) / scores.var()
    assert found.estimate == pytest.approx(0.625)
    assert (found.low, found.high) == pytest.approx(wilson(0.625, trials))
    assert found.high - found.low < np.subtract(*wilson(0.625, 80)[::-1])
    assert score_share([0.5] * 10).low < 0.5 < score_share([0.5] * 10).high
    assert score_share([1.0]).low == -np.inf, "a single prompt bounds nothing"


def test_the_p_value_is_of_the_test_it_is_called_after() -> None:
    exact = win_rate([1.0] * 19 + [0.0] * 3)
    assert (exact.p_value, exact.test) == (pytest.approx(scipy.stats.binomtest(19, 22).pvalue), SIGN_TEST)
    assert exact.p_value == pytest.approx(0.00086, abs=5e-6)
    assert win_rate([1.0] * 19 + [0.0] * 3 + [0.5] * 9).p_value == exact.p_value
    assert win_rate([1.0, 1.0, 0.75, 0.0, 0.5]).test == SIGN_FLIP_TEST


@pytest.mark.parametrize("prompts", [20, 50, 200, 1000])
def test_the_detectable_win_rate_is_found_four_times_out_of_five(prompts: int) -> None:
    share = detectable_win_rate(prompts)
    assert share is not None
    wins = np.random.default_rng(0).binomial(prompts, share, 3000)
    found = np.mean([sign_test(int(one), int(prompts - one)) < 0.05 for one in wins])
    assert 0.72 < found < 0.86  # the exact test is a little too careful, by how coarse counts are


def test_ties_make_smaller_win_rates_detectable_and_few_prompts_none() -> None:
    assert detectable_win_rate(200, 0.3) < detectable_win_rate(200, 0.5) < detectable_win_rate(100, 0.5)
    assert detectable_win_rate(5) is None
    assert detectable_win_rate(200, 0.05) is None, "one prompt in a hundred that is no tie"


def test_equal_length_is_the_intercept_of_a_straight_line() -> None:
    rng = np.random.default_rng(0)
    own, other = rng.integers(100, 900, 300), rng.integers(100, 600, 300)
    difference = (own - other) / (own + other)
    scores = (rng.random(300) < 0.5 + 0.4 * difference).astype(float)
    scores[:3] = np.nan
    found = equal_length(scores, own, other)
    assert found is not None
    design = np.stack([np.ones(297), difference[3:]], axis=1)
    (intercept, _), residuals, *_ = np.linalg.lstsq(design, scores[3:], rcond=None)
    error = np.sqrt(residuals[0] / 295 * np.linalg.inv(design.T @ design)[0, 0])
    reach = scipy.stats.t.ppf(0.975, 295) * error
    assert found.share.estimate == pytest.approx(intercept)
    assert (found.share.low, found.share.high) == pytest.approx((intercept - reach, intercept + reach))
    assert found.explained == pytest.approx(np.nanmean(scores) - intercept)
    assert found.share.low < 0.5 < found.share.high < 0.7


def test_of_answers_that_are_always_longer_nothing_is_told() -> None:
    own = np.arange(20) + 100
    assert equal_length(np.tile([0.0, 1.0], 10), own, own - 5) is None
    assert equal_length(np.ones(20), own, own[::-1]) is None
