"""Weights of plans: columns of the data and rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from mixdpo import Plan, make_plan

RNG = np.random.default_rng(0)


def pairs_with(**columns: Any) -> Dataset:
    n = len(next(iter(columns.values())))
    named = {name.replace("__", "/"): values for name, values in columns.items()}
    return Dataset.from_dict({"pair_id": [f"{i:020x}" for i in range(n)], "margin/rating": [1.0] * n, **named})


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_a_column_is_taken_as_it_is_and_kept_in_the_file(tmp_path: Path) -> None:
    values = {"weight__own": [0.0, 0.1, 1e3], "weight__other": [1.0] * 3, "label_probability": [0.0, 0.3, 1.0]}
    plain = make_plan(pairs_with(**values), "dpo")
    assert plain.weight is plain.label_probability is None
    assert not {"weight", "label_probability"} & set(plain.to_table().column_names)
    plan = make_plan(pairs_with(**values), "dpo", weight="own", label_probability="column")
    plan.save(tmp_path / "plan.parquet")
    for one in (plan, Plan.load(tmp_path / "plan.parquet")):
        assert (one.weight.tolist(), one.label_probability.tolist()) == ([0.0, 0.1, 1e3], [0.0, 0.3, 1.0])


def test_label_confidence_is_2p_minus_1_and_never_negative() -> None:
    data = pairs_with(label_probability=[0.0, 0.4, 0.5, 0.75, 1.0])
    plan = make_plan(data, "dpo", weight="label_confidence", label_probability="column")
    assert plan.weight.tolist() == [0, 0, 0, 0.5, 1]


def test_madpo_is_the_formula_of_its_author() -> None:
    margin = RNG.normal(0, 4, 200)
    data = pairs_with(margin__rm=margin)
    for c_max, c_min, slope, tau in ((2.0, 0.5, 1.0, np.log(999)), (4.0, 0.0, 0.3, 2.0)):
        settings = {"madpo_max": c_max, "madpo_min": c_min, "madpo_lambda": slope, "madpo_tau": tau}
        plan = make_plan(data, "madpo", metric="rm", **settings)
        expected = []
        for m in margin:
            c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) * np.exp(slope * (abs(m) - tau)))
            expected.append(sigmoid(c * m) / sigmoid(m) if m > -tau else 1.0)
        np.testing.assert_allclose(plan.weight, expected, rtol=1e-12)


def test_madpo_at_its_limits() -> None:
    data = pairs_with(margin__rm=[0.0, np.log(999), -np.log(999), 1e6, -1e6])
    plan = make_plan(data, "madpo", metric="rm")
    np.testing.assert_allclose(plan.weight, 1, rtol=1e-12)
    hard, easy, wrong = make_plan(pairs_with(margin__rm=[1.0, 5.0, -1.0]), "madpo", metric="rm", madpo_tau=2.0).weight
    assert hard > 1 > easy, "amplified where the margin is small, dampened where it is large"
    assert wrong < 1, "and a label that the reward model doubts weighs less"


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ({"weight/own": [1.0, -0.5, 1.0]}, {"weight": "own"}, ["row 2", "'weight/own'", "-0.5", "0 or more"]),
        ({"weight/own": [1.0, 1.0, np.nan]}, {"weight": "own"}, ["row 3", "'weight/own'", "nan"]),
        ({"weight/own": [1.0, 1.0, np.inf]}, {"weight": "own"}, ["row 3", "'weight/own'", "inf"]),
        ({"weight/own": ["a", "b", "c"]}, {"weight": "own"}, ["'weight/own'", "numbers"]),
        ({"weight/own": [1.0] * 3}, {"weight": "owm"}, ["no rule or column", "'owm'", "did you mean own?", "madpo"]),
        ({"weight/own": [0.0] * 3}, {"weight": "own"}, ["every weight", "own is 0"]),
        ({"weight/madpo": [1.0] * 3}, {"weight": "madpo"}, ["'weight/madpo'", "rule", "rename"]),
        ({}, {"weight": "label_confidence"}, ["label_confidence", "plan.label_probability"]),
        ({}, {"label_probability": "column"}, ["'label_probability'", "no such column"]),
        ({"label_probability": [0.5, 1.5, 0]}, {"label_probability": "column"}, ["row 2", "1.5", "0 to 1"]),
        ({"label_probability": [0.5, 0.5, None]}, {"label_probability": "column"}, ["row 3", "nan"]),
        ({}, {"label_probability": "both"}, ["label_probability is 'both'", "agreement"]),
        ({}, {"madpo_tau": 1.0}, ["madpo_tau belongs to weight madpo"]),
        ({}, {"weight": "madpo", "madpo_max": 1.0}, ["madpo_max is 1.0", "above 1"]),
    ],
)
def test_wrong_columns_and_settings(columns: Any, settings: Any, words: list[str], refused: Any) -> None:
    data = Dataset.from_dict({"pair_id": ["a", "b", "c"], "margin/rating": [1.0, 2.0, 3.0], **columns})
    refused(lambda: make_plan(data, "dpo", **settings), *words)
