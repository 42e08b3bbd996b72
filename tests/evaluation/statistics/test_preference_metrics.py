from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mixdpo.evaluation.statistics.preference_metrics import PairValues, summarise_pairs


def test_metrics_by_hand() -> None:
    values = PairValues(
        policy=np.array([[-4.0, -9.0], [-6.0, -3.0]]),
        tokens=np.array([[2, 9], [6, 1]]),
        reference=np.array([[-5.0, -8.0], [-6.0, -2.0]]),
        beta=0.5,
    )
    found = {name: column.tolist() for name, column in values.columns().items()}
    assert found == {
        "accuracy": [True, True],
        "reward_margin": [1.0, 0.5],
        "displacement_chosen": [1.0, 0.0],
        "displacement_rejected": [-1.0, -1.0],
        "chosen_fell": [False, False],
        "logp_accuracy": [True, False],
        "per_token_accuracy": [False, True],
    }


def test_pairs_of_one_prompt_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(200)
    right = values > 0.4
    alone = summarise_pairs({"a": right, "m": values}, np.arange(200), {})
    share = stats.binomtest(int(right.sum()), 200).proportion_ci(method="wilson")
    assert alone["a_interval"] == pytest.approx([100 * share.low, 100 * share.high])
    tripled = summarise_pairs(
        {"a": np.repeat(right, 3), "m": np.repeat(values, 3)}, np.repeat(np.arange(200), 3), {"easy": np.arange(30)}
    )
    assert tripled["m_interval"] == pytest.approx(alone["m_interval"])
    assert tripled["a_interval"] == pytest.approx(alone["a_interval"], abs=2)
    assert (tripled["n"], tripled["n_prompts"], tripled["buckets"]["easy"]["n_prompts"]) == (600, 200, 10)
