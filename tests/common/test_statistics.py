from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mixdpo.common.statistics import (
    Interval,
    both_ends,
    clustered_bootstrap,
    clustered_mean,
    mean_interval,
    mean_of_means,
    paired_bootstrap,
    proportion,
)


def paired(n: int, gain: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 3, n).astype(float)
    return before, before + gain + rng.normal(0, 0.5, n)


def test_equals_scipy() -> None:
    before, after = paired(60, 0.4)
    found = paired_bootstrap(before, after, rng=np.random.default_rng(1), resamples=2000, level=0.9)
    expected = stats.bootstrap(
        (after - before,), np.mean, n_resamples=2000, confidence_level=0.9, random_state=np.random.default_rng(1)
    ).confidence_interval
    assert found.estimate == pytest.approx(np.mean(after - before))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.level == 0.9


def test_close_to_the_t_interval() -> None:
    before, after = paired(400, 0.4)
    found = paired_bootstrap(before, after, rng=np.random.default_rng(1))
    exact = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)
    assert found.low > 0


def test_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        before, after = paired(40, 0.2, seed)
        interval = paired_bootstrap(before, after, rng=np.random.default_rng(seed), resamples=500)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_pairing_matters() -> None:
    """A steady gain on very unequal items is clear of zero; unpaired it would drown in their spread."""
    before = np.arange(50.0) * 10
    after = before + np.tile([0.4, 0.6], 25)
    interval = paired_bootstrap(before, after, rng=np.random.default_rng(0))
    assert 0.4 < interval.low < 0.5 < interval.high < 0.6


def test_no_variance() -> None:
    interval = paired_bootstrap([1, 2, 3], [2, 3, 4], rng=np.random.default_rng(0))
    assert interval == Interval(estimate=1.0, low=1.0, high=1.0, level=0.95)
    same = paired_bootstrap([1, 2, 3], [1, 2, 3], rng=np.random.default_rng(0))
    assert (same.low, same.high) == (0.0, 0.0)


def test_same_seed_same_interval() -> None:
    before, after = paired(30, 0.1)
    first, second = (paired_bootstrap(before, after, rng=np.random.default_rng(4)) for _ in range(2))
    assert first == second


def test_reversed_pairs_mirror_the_estimate() -> None:
    before, after = paired(30, 0.1)
    forward = paired_bootstrap(before, after, rng=np.random.default_rng(4))
    backward = paired_bootstrap(after, before, rng=np.random.default_rng(4))
    assert backward.estimate == pytest.approx(-forward.estimate)
    assert not forward.low > forward.high


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ([1.0], [2.0], "at least 2"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "one length"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one length"),
        ([1.0, float("nan")], [1.0, 2.0], "not finite"),
    ],
)
def test_bad_input(before: list[float], after: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        paired_bootstrap(before, after, rng=np.random.default_rng(0))


def test_text() -> None:
    assert str(Interval(estimate=0.55, low=0.333, high=0.75, level=0.95)) == "+0.55 (95 % interval +0.33 to +0.75)"


def test_mean_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(3, 2, 50)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_interval(values, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_clusters_of_equal_rows_widen_the_interval() -> None:
    """Three copies of every row say nothing new: the interval over clusters is that of the rows alone."""
    values = np.random.default_rng(0).random(300)
    single = clustered_bootstrap(values, np.ones(300), rng=np.random.default_rng(1))
    tripled = clustered_bootstrap(3 * values, np.full(300, 3), rng=np.random.default_rng(1))
    ends = (tripled.estimate, tripled.low, tripled.high)
    assert ends == pytest.approx((single.estimate, single.low, single.high))
    expected = stats.bootstrap((values,), np.mean, method="percentile", random_state=np.random.default_rng(2))
    interval = expected.confidence_interval
    assert (single.low, single.high) == pytest.approx((interval.low, interval.high), abs=0.003)


def test_wilson() -> None:
    found = proportion(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # Wilson (1927)


def test_mean_of_means_is_welchs() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(2, 1, 12), rng.normal(0, 3, 30)
    found, error = mean_of_means([first, second], [1, 1])
    # Half of the difference of `first` and minus `second`, whose interval scipy gives by Welch's method.
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    assert (2 * found.low, 2 * found.high) == pytest.approx((expected.low, expected.high))
    assert 2 * error == pytest.approx(np.hypot(stats.sem(first), stats.sem(second)))
    alone, error = mean_of_means([first], [3])
    own = stats.ttest_1samp(first, 0).confidence_interval(0.95)
    assert (alone.low, alone.high, error) == pytest.approx((own.low, own.high, stats.sem(first)))


def test_equal_values_on_a_scale_have_wilsons_interval() -> None:
    wins = mean_interval([1.0] * 5, scale=(0.0, 1.0))
    wilson = stats.binomtest(5, 5).proportion_ci(method="wilson")
    assert (wins.estimate, wins.low, wins.high) == pytest.approx((1.0, wilson.low, wilson.high))
    rest = 1 - wilson.low
    draws = mean_interval([50.0] * 5, scale=(0.0, 100.0))
    assert (draws.low, draws.high) == pytest.approx((50 - 50 * rest, 50 + 50 * rest))
    clusters = clustered_mean(np.full(10, 10.0), ["a", "b"] * 5, rng=np.random.default_rng(0), scale=(0.0, 10.0))
    two = stats.binomtest(2, 2).proportion_ci(method="wilson")
    assert (clusters.low, clusters.high) == pytest.approx((10 * two.low, 10.0))
    assert mean_interval([1.0, 0.0], scale=(0.0, 1.0)) == mean_interval([1.0, 0.0])


def test_a_single_item_has_no_interval() -> None:
    one = clustered_mean(np.full(4, 0.5), ["a"] * 4, rng=np.random.default_rng(0), scale=(0.0, 1.0))
    assert (one.estimate, both_ends(one), both_ends(mean_interval([3.0]))) == (0.5, None, None)
    assert both_ends(Interval(estimate=0.5, low=0.25, high=0.75, level=0.95), 100) == [25.0, 75.0]
