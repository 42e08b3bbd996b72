"""Advice on data: what is measured of its pairs by margin, the plan that follows it, and what is refused."""

from __future__ import annotations

import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from mixdpo import advise, make_plan
from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval
from mixdpo.plan.advice import Advice
from mixdpo.plan.advice_measured import PARTS, measured_parts, surplus_of
from mixdpo.plan.curve_figure import agreement_figure
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PLANS, ROUTES
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.step_settings import unread_labels
from rules import ship

HARD = 600
ROOT = Path(__file__).parents[2]
N = 3000


def planted(**changes: Any) -> Dataset:
    """A fifth of the pairs with small margins and coins' labels, which a second rater of accuracy 0.9 judges.

    Chosen answers of hard pairs are rated 2 above the start's and 1 below the trained policy's.
    """
    rng = np.random.default_rng(0)
    hard = np.arange(N) < HARD
    margin = np.where(hard, rng.uniform(0.01, 0.1, N), rng.uniform(1, 4, N))
    right = ~hard | (rng.random(N) < 0.5)
    rater = np.where(right == (rng.random(N) < 0.9), 1.0, -1.0)
    start = np.where(hard, 2, 3) + rng.normal(0, 0.5, N)
    columns = {
        "pair_id": [f"{i:020x}" for i in range(N)],
        "margin/rating": margin,
        "margin/rater": rater,
        "quality/start/chosen": start,
        "quality/trained/chosen": start - 3 + rng.normal(0, 0.5, N),
        **changes,
    }
    return Dataset.from_dict({name: values for name, values in columns.items() if values is not None})


@pytest.fixture(autouse=True)
def a_rule_that_no_map_changes(request, monkeypatch) -> None:
    if "alpaca_graded" not in request.fixturenames:
        ship(monkeypatch, sft=30, smoothed=0, drop=10)


def settings(**changes: Any) -> Any:
    return replace(PLANS["advised"], **changes)


def test_parts_are_ties_and_fifths_of_the_rest() -> None:
    margin = np.concatenate([np.zeros(100), np.arange(1.0, 401.0)])
    ids = [f"{i:020x}" for i in range(500)]
    found = measured_parts(Dataset.from_dict({"pair_id": ids}), margin, settings())
    assert [part.pairs for part in found.parts] == [100] + [80] * PARTS
    assert [part.margin_min for part in found.parts] == [0, 1, 81, 161, 241, 321]
    assert np.bincount(found.part_of).tolist() == [100] + [80] * PARTS
    assert found.parts[0].relative_margin == 0
    assert found.parts[-1].relative_margin == pytest.approx(360.5 / margin[333:].mean())
    assert (found.label_source, found.curve, found.parts[0].right, found.parts[0].surplus) == (None, None, None, None)


def test_p_and_surplus_are_found() -> None:
    data = planted()
    found = measured_parts(data, np.array(data["margin/rating"]), settings())
    hard, *others = found.parts
    assert (found.label_source, hard.pairs, hard.policies) == ("agreement", HARD, "both")
    assert hard.right.low <= 0.5 <= hard.right.high < 0.7
    assert min(part.right.estimate for part in others) > 0.9
    assert hard.surplus.estimate == pytest.approx(-1 / 3, abs=0.03)
    assert hard.surplus.low < -1 / 3 < hard.surplus.high
    assert others[0].surplus.estimate == pytest.approx(0, abs=0.03)


def test_the_interval_of_the_surplus_is_that_of_resampled_pairs() -> None:
    rng = np.random.default_rng(1)
    start, trained = rng.normal(1, 2, 400), rng.normal(-0.5, 2, 400)
    start[rng.random(400) < 0.2] = np.nan
    rows = np.arange(120)
    found, _ = surplus_of(start, trained, rows)

    def once() -> float:
        drawn = np.concatenate([rng.choice(rows, len(rows)), rng.choice(np.arange(120, 400), 280)])
        gain = (start - trained)[drawn]
        return float(trained[drawn[:120]].mean() / gain[~np.isnan(gain)].mean())

    low, high = np.quantile([once() for _ in range(4000)], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1)


@pytest.mark.parametrize(
    ("start", "trained", "expected"),
    [
        (None, 1.0, (None, 0.0, np.inf, "trained")),
        (None, -1.0, (None, -np.inf, 0.0, "trained")),
        (-1.0, None, (None, -np.inf, -1.0, "start")),
        (1.0, None, (None, -1.0, np.inf, "start")),
        (-1.0, 1.0, (None, 0.0, np.inf, "trained")),  # the policy is worse than the start: no scale
        (None, None, None),
    ],
)
def test_one_policy_gives_a_bound(start, trained, expected) -> None:
    noise = np.random.default_rng(2).normal(0, 0.3, 50)
    of = (None if mean is None else mean + noise for mean in (start, trained))
    found, policies = surplus_of(*of, np.arange(50))
    if expected is None:
        assert (found, policies) == (None, "none")
    else:
        assert (found.estimate, found.low, found.high, policies) == expected
    unclear, _ = surplus_of(None, noise - noise.mean(), np.arange(50))
    assert unclear is None
    assert mean_interval(noise).high > -1


def test_the_plan_follows_the_advice(tmp_path) -> None:
    data = planted()
    plan = make_plan(data, "advised")
    advice = plan.advice
    assert advice is not None
    assert advice.parts[0].route == "drop"
    dropped = plan.route == ROUTES.index("drop")
    assert np.flatnonzero(dropped).tolist() == list(range(HARD))
    assert (plan.route[HARD:] == ROUTES.index("preference")).all()
    assert np.sort(plan.position[dropped]).tolist() == list(range(N - HARD, N))
    assert len(plan.epoch_rows(0, 1)) == N  # the updates are spent on the others
    assert not dropped[plan.epoch_rows(0, 1)].any()
    assert plan.curve is not None

    (axis,) = agreement_figure(asdict(plan.curve), advice).axes
    named = {text.get_text(): text.get_position()[0] for text in axis.texts}
    assert named == {"drop": pytest.approx(0.005), "preference": pytest.approx(0.205)}

    plan.save(tmp_path / "plan.parquet")
    again = Plan.load(tmp_path / "plan.parquet")
    assert again.advice == advice
    assert (again.route == plan.route).all()
    assert again.settings == plan.settings


def test_good_answers_are_imitated_and_one_bound_survives_a_file(tmp_path) -> None:
    good = np.where(np.arange(N) < HARD, 3.0, 0.0) + np.random.default_rng(3).normal(0, 0.1, N)
    plan = make_plan(planted(**{"quality/start/chosen": None, "quality/trained/chosen": good}), "advised")
    assert (plan.route[:HARD] == ROUTES.index("sft")).all()
    assert plan.is_hard[:HARD].all()
    plan.save(tmp_path / "plan.parquet")
    assert Plan.load(tmp_path / "plan.parquet").advice == plan.advice
    assert json.loads(json.dumps(plan.advice.to_dict(), allow_nan=False))["parts"][0]["part"]["surplus"] == {
        "estimate": None, "low": 0.0, "high": None,
    }  # fmt: skip
    assert Advice.from_dict(plan.advice.to_dict()) == plan.advice


def test_sft_at_the_end_sorts_the_plan(monkeypatch, tmp_path) -> None:
    ship(monkeypatch, sft=0, smoothed=0, drop=5, last=20)
    plan = make_plan(planted(), "advised")
    assert plan.advice.parts[0].route == "sft_last"
    assert (plan.route[:HARD] == ROUTES.index("sft")).all()
    assert (np.diff(plan.margin[np.argsort(plan.position)]) <= 0).all()
    assert plan.settings.order == "easy_to_hard"
    plan.save(tmp_path / "plan.parquet")
    assert Plan.load(tmp_path / "plan.parquet").advice == plan.advice


def test_smoothing_says_how_sure_labels_are(monkeypatch) -> None:
    ship(monkeypatch, sft=0, smoothed=20)
    plan = make_plan(planted(), "advised")
    assert plan.advice.parts[0].route == "smoothed"
    assert (plan.route == ROUTES.index("preference")).all()
    assert plan.settings.label_probability == "agreement"
    assert plan.label_probability[:HARD].mean() < 0.6
    said = unread_labels(MixDPOConfig(output_dir="unused", use_cpu=True, bf16=False), plan)
    assert said is not None
    assert "label_smoothing to per_pair" in said
    by_column = make_plan(planted(label_probability=np.full(N, 0.7)), "advised")
    assert by_column.settings.label_probability in (None, "column")
    assert by_column.advice.label_source == "column"


def test_advise_is_the_plans_advice() -> None:
    data = planted()
    assert advise(data, least_effect=2.0) == make_plan(data, "advised", least_effect=2.0).advice
    unknown = advise(planted(**{"margin/rater": None, "quality/start/chosen": None, "quality/trained/chosen": None}))
    assert unknown.label_source is None
    assert unknown.parts[0].route == "drop"
    assert [one.of for one in unknown.measurements] == ["quality"]


def test_wrong_labels_of_easy_pairs_come_first() -> None:
    probability = np.where(np.arange(N) < HARD, 0.5, 0.85)
    advice = advise(planted(label_probability=probability))
    assert advice.wrong_labels is not None
    assert advice.wrong_labels.pairs == pytest.approx(0.15 * (N - HARD), abs=1)


@pytest.mark.parametrize(
    ("changes", "given", "says"),
    [
        ({"margin/embedding": np.ones(N)}, {"metric": "embedding"}, "plan.metric"),
        ({"margin/low": -np.ones(N)}, {"metric": "low"}, "not above 0"),
        ({}, {"trained_policy": "traind"}, "trained"),
        ({"quality/start/chosen": None, "quality/trained/chosen": None}, {"start_policy": "base"}, "quality/base"),
        ({}, {"signals": ["ratr"]}, "rater"),
        ({}, {"threshold": 0.5}, "threshold"),
        ({}, {"hard_route": "drop"}, "hard_route"),
        ({}, {"stages": 2}, "stages"),
        ({}, {"least_effect": 0.0}, "least_effect"),
        ({"margin/rating": None}, {}, "margin/rating"),
        ({}, {"label_probability": "column"}, "label_probability"),
        ({"label_probability": np.full(N, 1.5)}, {}, "1.5"),
    ],
)
def test_refused(changes, given, says) -> None:
    with pytest.raises(InputError, match=says):
        make_plan(planted(**changes), "advised", **given)


def test_settings_of_advice_belong_to_advised_plans() -> None:
    with pytest.raises(InputError, match="least_effect"):
        make_plan(planted(), "dpo", least_effect=1.0)


def test_the_example_of_the_docs_is_what_is_printed(alpaca_graded) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "advice_example.py"))
    page = (ROOT / "docs" / "advice.md").read_text(encoding="utf-8")
    assert script["with_example"](page, script["example"](alpaca_graded)) == page
