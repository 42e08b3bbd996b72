from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from mixdpo.common.statistics import proportion, sign_test
from mixdpo.evaluation.statistics.paired import (
    SIGN_TEST,
    agreement,
    compare_all,
    holm,
    length_effect,
    sign_flip_test,
)


def test_sign_test_and_holm() -> None:
    assert sign_test(12, 3) == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert sign_test(0, 0) == 1


def test_sign_flips_test_the_mean() -> None:
    right_or_wrong = np.array([1.0] * 12 + [-1.0] * 3 + [0.0] * 40)
    assert sign_flip_test(right_or_wrong) == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert sign_flip_test(np.zeros(5)) == 1
    few = np.array([0.5, 1.0, 0.25, -0.1])
    sums = [abs(sum(s * x for s, x in zip(signs, few, strict=True))) for signs in product((1, -1), repeat=4)]
    assert sign_flip_test(few) == pytest.approx(np.mean([one >= abs(few.sum()) - 1e-9 for one in sums]))
    # A mean that rises by few large steps against many small ones: the signs alone point the other way.
    mixed = np.array([-0.1] * 60 + [1.0] * 40)
    assert sign_flip_test(mixed) == pytest.approx(1e-4, abs=2e-4)
    assert sign_flip_test(mixed) == sign_flip_test(mixed)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # Holm (1979), by hand
    assert holm([0.9, 0.8]) == [1, 1]


def test_agreement_is_cohens_kappa() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    first, second = (rng.choice(["A", "B", "tie"], 200).tolist() for _ in range(2))
    second[:120] = first[:120]
    found = agreement(first, second)
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(first, second))
    assert found.share.estimate == pytest.approx(metrics.accuracy_score(first, second))


def test_length_effect() -> None:
    difference = np.arange(-50, 51)
    found = length_effect((difference > 0).astype(float), difference)
    assert found is not None
    assert found.longer_wins is not None
    assert found.longer_wins.estimate == 1
    assert found.correlation > 0.8
    assert length_effect(np.ones(5), np.arange(5)) is None


def test_compare_all_pairs_prompts_and_corrects() -> None:
    rng = np.random.default_rng(0)
    base = {str(i): float(rng.random()) for i in range(60)}
    scores = {"a": base, "b": {i: v + 0.1 for i, v in base.items()}, "c": dict(list(base.items())[:40])}
    found = {(one.first, one.second): one for one in compare_all(scores)}
    assert found["a", "b"].gain.estimate == pytest.approx(0.1)
    assert (found["a", "b"].better, found["a", "b"].worse) == (60, 0)
    assert found["a", "b"].p_adjusted == pytest.approx(3 * found["a", "b"].p_value)
    assert found["a", "c"].p_value == 1
    with pytest.raises(ValueError, match="share 0"):
        compare_all({"a": base, "d": {"other": 1.0}})


def test_differences_that_are_all_equal_have_an_interval_with_a_width() -> None:
    names = [str(prompt) for prompt in range(12)]
    won = {"first": dict.fromkeys(names, 0.0), "second": dict.fromkeys(names, 100.0)}
    (found,) = compare_all(won)
    others = proportion(0, 12).high
    assert (found.gain.estimate, found.gain.high) == (100, 100)
    assert found.gain.low == pytest.approx(100 - 200 * others)
    assert found.gain.low > 0
    assert (found.p_value, found.test) == (pytest.approx(2 / 2**12), SIGN_TEST)
