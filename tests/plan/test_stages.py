"""Plans of stages: which pairs are drawn, what moves between two stages, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from mixdpo import Plan, make_plan
from mixdpo.plan.pacing import pool_share
from mixdpo.plan.plan_settings import ROUTES
from mixdpo.plan.stages import first_stage, moved_plan, next_stage, rank_correlation, stage_pool, stage_rows
from tiny import margin_data

EVERY = np.ones(12, dtype=bool)


def plan_of(**changes: Any) -> Plan:
    return make_plan(margin_data(list(range(12))), **{"threshold": None, "stages": 3, **changes})


def routes(plan: Plan) -> list[str]:
    return [ROUTES[code] for code in plan.route]


def test_with_margins_that_stay_the_stages_are_the_parts_of_the_order() -> None:
    plan = first_stage(plan_of())
    trained = []
    for _ in range(3):
        pool = stage_pool(plan, 4, EVERY)
        trained.append(stage_rows(plan, pool, 8).tolist())
        plan = next_stage(moved_plan(margin_data([]), plan, None), plan, pool, None)
    assert trained == [[11, 10, 9, 8] * 2, [7, 6, 5, 4] * 2, [3, 2, 1, 0] * 2]
    assert stage_pool(plan, 4, EVERY).tolist() == [11, 10, 9, 8], "all had their turn, so it begins anew"


def test_a_shuffled_stage_passes_over_its_pairs_in_a_new_order() -> None:
    plan = first_stage(plan_of(order="shuffled"))
    pool = stage_pool(plan, 6, EVERY)
    rows = stage_rows(plan, pool, 15).reshape(-1, 3)
    first, second = rows[:2].ravel(), rows[2:4].ravel()
    assert sorted(first) == sorted(second) == sorted(pool)
    assert first.tolist() != second.tolist()


def test_a_paced_stage_draws_from_the_easiest_of_its_own_pairs() -> None:
    plan = first_stage(plan_of(pacing="sqrt"))
    pool = stage_pool(plan, 8, EVERY)
    rows = stage_rows(plan, pool, 800)
    assert np.bincount(rows, minlength=12).tolist() == [0] * 4 + [100] * 8
    assert ((11 - rows) <= pool_share(np.arange(800) / 800, "sqrt") * 8).all()
    assert rows.tolist() != sorted(rows, reverse=True)


def test_other_margins_make_another_plan_of_the_same_settings() -> None:
    data = margin_data(list(range(12)))
    plan = make_plan(data, threshold={"hardest": 0.25}, stages=2, stage_metric="nll_gap")
    margin = np.array([5.0, 1, 2, np.nan, 4, 3, 9, 8, 7, 6, 11, 10])
    moved = moved_plan(data, plan, margin)
    anew = make_plan(margin_data([m for m in margin if not np.isnan(m)]), threshold={"hardest": 0.25})
    known = ~np.isnan(margin)
    for name in ("margin", "quantile", "bucket", "route"):
        np.testing.assert_array_equal(getattr(moved, name)[known], getattr(anew, name))
    assert routes(moved)[3] == "drop"
    assert moved.kept_rows().tolist() == np.flatnonzero(known)[anew.kept_rows()].tolist()
    assert moved.settings.metric == "nll_gap"
    moved.check_belongs_to(data)
    assert rank_correlation(moved, plan) == pytest.approx(spearmanr(margin[known], np.arange(12)[known]).statistic)


def test_weights_and_label_probabilities_stay() -> None:
    """They are not asked for again: the end of a stage is too late to find that margins say nothing of labels."""
    data = margin_data(list(range(12)))
    told = data.add_column("weight/own", np.linspace(0, 2, 12).tolist())
    told = told.add_column("label_probability", np.linspace(0, 1, 12).tolist())
    plan = make_plan(told, stages=2, stage_metric="nll_gap", weight="own", label_probability="column")
    moved = moved_plan(data, plan, np.arange(12.0)[::-1])
    assert moved.position.tolist() != plan.position.tolist()
    for name in ("weight", "label_probability"):
        assert getattr(moved, name) is getattr(plan, name)


@pytest.mark.parametrize("gated_route", ["drop", "both"])
def test_the_gate_lets_risen_pairs_through_and_those_it_let_through_before(gated_route: str) -> None:
    plan = plan_of(threshold={"hardest": 0.25}, gate="likelihood", gated_route=gated_route)
    one = first_stage(plan)
    assert routes(one) == ["drop"] * 3 + ["preference"] * 9
    risen = np.arange(12) == 1
    two = next_stage(plan, one, stage_pool(one, 9, EVERY), risen)
    assert routes(two) == [gated_route, "sft", gated_route] + ["preference"] * 9
    pool = stage_pool(two, 4, EVERY)
    three = next_stage(plan, two, pool, np.arange(12) == 2)
    assert routes(three)[:3] == [gated_route, "sft", "sft"], "its own training says nothing of the others'"


def test_a_plan_of_a_stage_is_stored_whole(tmp_path) -> None:
    plan = first_stage(plan_of(pacing="sqrt"))
    plan.save(tmp_path / "stage.parquet")
    loaded = Plan.load(tmp_path / "stage.parquet")
    assert loaded.settings == plan.settings
    assert loaded.stages_before.tolist() == [0] * 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": 0}, ["stages is 0"]),
        ({"stage_metric": "rating"}, ["stage_metric", "nll_gap", "policy's own"]),
        ({"stages": 1, "stage_metric": "nll_gap"}, ["stage_metric", "several stages"]),
        ({"stages": 1, "gate": "likelihood"}, ["gate", "several stages"]),
        ({"gate": "likelihood"}, ["gate likelihood", "threshold"]),
        ({"gated_route": "sft"}, ["gated_route", "gate"]),
        ({"gated_route": "tie"}, ["gated_route", "tie"]),
        ({"weight": "rate", "order": "shuffled"}, ["weight rate", "stage"]),
        ({"threshold": 3.0, "stage_metric": "nll_gap"}, ["threshold 3", "another scale", "hardest"]),
        ({"threshold": {"hardest": 0.5}, "epochs": "staged"}, ["epochs: staged"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, words, refused) -> None:
    refused(lambda: plan_of(**changes), *words)


def test_a_stage_that_trains_nothing_is_refused(refused) -> None:
    plan = first_stage(plan_of(threshold={"hardest": 0.5}, gate="likelihood", easy_route="drop"))
    refused(lambda: stage_pool(plan, 4, EVERY), "drops every pair")
