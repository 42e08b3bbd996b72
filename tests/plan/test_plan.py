"""Plans: orders, routes, thresholds, ties, epochs and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from mixdpo import PLANS, Plan, make_plan
from mixdpo.common.errors import InputError
from mixdpo.plan.pacing import pool_share
from mixdpo.plan.plan_settings import BUCKETS, ROUTES
from synthetic import ULTRAFEEDBACK_MARGINS


def pairs_with(margins: list[float]) -> Dataset:
    ids = [f"{i:020x}" for i in range(len(margins))]
    return Dataset.from_dict({"pair_id": ids, "margin/rating": [float(m) for m in margins]})


def routed(plan: Plan, route: str) -> np.ndarray:
    return np.flatnonzero(plan.route == ROUTES.index(route))


def in_order(plan: Plan, epoch: int = 0, epochs: int = 1) -> list[int]:
    return plan.epoch_rows(epoch, epochs).tolist()


@pytest.fixture(scope="module")
def ultrafeedback_like() -> Dataset:
    margins = np.repeat(list(ULTRAFEEDBACK_MARGINS), list(ULTRAFEEDBACK_MARGINS.values()))
    assert len(margins) == 61130  # the published 61,135 hold five odd values
    return pairs_with(np.random.default_rng(0).permutation(margins).tolist())


@pytest.mark.parametrize(("tau", "count"), [(0.5, 7387), (1, 18653), (1.5, 30652)])
def test_ultrafeedback_counts_at_the_published_thresholds(ultrafeedback_like: Dataset, tau: float, count: int) -> None:
    plan = make_plan(ultrafeedback_like, threshold=tau)
    assert len(routed(plan, "sft")) == count
    assert len(routed(plan, "preference")) == len(ultrafeedback_like) - count


def test_ultrafeedback_order_has_the_ties_last(ultrafeedback_like: Dataset) -> None:
    plan = make_plan(ultrafeedback_like, threshold=0.5)
    margins = plan.margin[in_order(plan)]
    assert margins[0] == 8.5
    assert (margins[-7387:] == 0).all()
    assert (np.diff(margins) <= 0).all()
    # 160 pairs a step: the last preference pairs are in step 336, as in the published runs.
    is_sft = plan.is_hard[in_order(plan)]
    assert int(np.flatnonzero(is_sft)[0]) // 160 + 1 == 336


def test_hardest_fraction_routes_the_last_pairs_of_the_easy_to_hard_order() -> None:
    data = pairs_with([3, 0, 1, 1, 1, 1, 2, 5, 4, 6])
    plan = make_plan(data, threshold={"hardest": 0.3}, seed=7)
    assert sorted(in_order(plan)[-3:]) == routed(plan, "sft").tolist()
    assert 1 in routed(plan, "sft")  # the tie, and two of the four pairs of margin 1
    others = {tuple(routed(make_plan(data, threshold={"hardest": 0.3}, seed=s), "sft")) for s in range(20)}
    assert len(others) > 1, "which of the equal margins are routed depends on the seed"


def test_hardest_fraction_rounds_halves_up() -> None:
    assert len(routed(make_plan(pairs_with(range(5)), threshold={"hardest": 0.1}), "sft")) == 1
    assert len(routed(make_plan(pairs_with(range(25)), threshold={"hardest": 0.1}), "sft")) == 3


def test_margin_threshold_is_strict() -> None:
    plan = make_plan(pairs_with([0.4, 0.5, 0.6]), threshold=0.5)
    assert routed(plan, "sft").tolist() == [0]
    assert plan.threshold_margin == 0.4


@pytest.mark.parametrize(
    ("threshold", "taken"),
    [
        ({"easiest": 0.25}, [9, 8, 7]),  # 2.5 pairs: halves round up
        ({"outside": [0.25, 0.75]}, [9, 8, 7, 2, 1, 0]),
        ({"outside": [0.0, 0.75]}, [2, 1, 0]),
        ({"outside": [0.2, 1]}, [9, 8]),
    ],
)
def test_shares_of_the_easiest_and_outside_a_band_are_routed(threshold: dict, taken: list[int]) -> None:
    plan = make_plan(pairs_with(range(10)), threshold=threshold)
    assert routed(plan, "sft").tolist() == sorted(taken)
    assert in_order(plan) == list(range(9, -1, -1)), "the order is by margin, whatever the threshold takes"
    assert plan.threshold_margin is None, "no margin divides these pairs"


@pytest.mark.parametrize("n", [5, 10, 25])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_band_that_begins_with_the_easiest_is_the_hardest_share(n: int, share: float) -> None:
    data = pairs_with([0, 1] * (n // 2) + [2] * (n % 2))
    one, other = (make_plan(data, threshold=t) for t in ({"hardest": share}, {"outside": [0, 1 - share]}))
    np.testing.assert_array_equal(one.route, other.route)


@pytest.mark.parametrize("values", [[True, False, False, True], [1, 0, 0, 1]])
def test_a_column_names_the_pairs_to_route_and_needs_no_margins(values: list) -> None:
    data = pairs_with([3, 2, 1, 0]).add_column("tie", values)
    plan = make_plan(data, threshold={"column": "tie"})
    assert routed(plan, "sft").tolist() == [0, 3]
    assert plan.threshold_margin is None
    without = make_plan(data.remove_columns("margin/rating"), "dpo", threshold={"column": "tie"})
    assert routed(without, "sft").tolist() == [0, 3]


def test_a_column_to_route_by_is_of_true_and_false(caplog: pytest.LogCaptureFixture) -> None:
    data = pairs_with([3, 2, 1])
    with pytest.raises(InputError, match=r"no such column for plan\.threshold"):
        make_plan(data, threshold={"column": "tie"})
    for values, row in ([1, 0, 2], 3), ([True, None, False], 2), ([0.0, 1.0, float("nan")], 3):
        with pytest.raises(InputError, match="true or false") as refused:
            make_plan(data.add_column("tie", values), threshold={"column": "tie"})
        assert refused.value.row == row
    with pytest.raises(InputError, match="true or false"):
        make_plan(data.add_column("tie", ["yes", "no", "no"]), threshold={"column": "tie"})
    make_plan(data.add_column("tie", [False] * 3), threshold={"column": "tie"})
    assert "takes no pair: column 'tie' is false throughout" in caplog.text


@pytest.mark.parametrize("tau", [-1, 0, 7, 100])
def test_threshold_outside_the_data_is_refused(tau: float) -> None:
    with pytest.raises(InputError, match=r"margin.*0 to 6"):
        make_plan(pairs_with([0, 3, 6]), threshold=tau)


@settings(deadline=None, max_examples=60)
@given(
    margins=st.lists(st.integers(-3, 3), min_size=2, max_size=40),
    name=st.sampled_from(sorted(PLANS)),
    seed=st.integers(0, 5),
)
def test_every_plan_is_a_permutation_and_repeatable(margins: list[int], name: str, seed: int) -> None:
    data = pairs_with([float(m) for m in margins])
    assume(len(margins) > 5 or PLANS[name].hard_route != "drop")  # nine tenths of five are all
    assume(name != "advised" or np.sort(margins)[2 * len(margins) // 3 :].mean() > 0)  # else it refuses the margins
    plan = make_plan(data, name, seed=seed, metric="rating")
    assert sorted(plan.position.tolist()) == list(range(len(margins)))
    again = make_plan(data, name, seed=seed, metric="rating")
    assert (again.position == plan.position).all()
    assert (again.route == plan.route).all()
    trained = in_order(plan)
    assert sorted(set(trained)) == np.flatnonzero(plan.route != ROUTES.index("drop")).tolist()
    assert len(trained) == plan.epoch_length()
    expected = (rankdata(-np.array(margins)) - 1) / (len(margins) - 1)
    np.testing.assert_allclose(plan.quantile, expected)


def test_every_plan_stands_in_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    assert not [name for name in PLANS if f"`{name}`" not in text]


def test_named_plans() -> None:
    data = pairs_with(np.linspace(0, 9.9, 100).tolist())

    def order_of(name: str) -> np.ndarray:
        plan = make_plan(data, name)
        return plan.margin[in_order(plan)]

    def routes_of(name: str) -> dict[str, int]:
        return {record["route"]: record["pairs"] for record in make_plan(data, name).summary()}

    assert routes_of("mixdpo") == {"preference": 90, "sft": 10}
    assert (np.diff(order_of("mixdpo")) < 0).all()
    assert routes_of("dpo") == {"preference": 100}
    assert len(set(np.sign(np.diff(order_of("dpo"))))) == 2
    assert routes_of("dpo_sorted") == {"preference": 100}
    assert (np.diff(order_of("dpo_sorted")) < 0).all()
    assert (np.diff(order_of("anti_curriculum")) > 0).all()
    assert routes_of("selective_dpo") == {"preference": 50, "drop": 50}
    assert order_of("selective_dpo").min() > 4.9
    assert routes_of("mixdpo_unsorted") == {"preference": 90, "sft": 10}
    assert (order_of("sft_first")[:10] < 1).all()
    assert (np.diff(order_of("sft_first")[10:]) < 0).all()
    assert routes_of("sft_chosen") == {"sft": 100}
    assert routes_of("uniform_mix") == {"both": 100}


@pytest.mark.parametrize(
    ("name", "metric", "kept"),
    [
        ("smallest_gap", "implicit_reward", range(10)),
        ("fused_margin", "fused", range(90, 100)),
        ("middle_influence", "middle", range(36, 100)),
        ("preference_variance", "preference_variance", range(90, 100)),
    ],
)
def test_selection_rules_keep_their_share_shuffled(name: str, metric: str, kept: range) -> None:
    data = pairs_with(range(100)).rename_column("margin/rating", f"margin/{metric}")
    rows = in_order(make_plan(data, name))
    assert sorted(rows) == list(kept)
    assert rows not in (list(kept), list(reversed(kept)))


def test_shuffled_plans_are_shuffled_anew_in_the_second_epoch_and_sorted_ones_repeat() -> None:
    data = pairs_with(range(30))
    shuffled, ordered = make_plan(data, "dpo"), make_plan(data, "mixdpo")
    assert in_order(shuffled, 0, 2) != in_order(shuffled, 1, 2)
    assert sorted(in_order(shuffled, 1, 2)) == list(range(30))
    assert in_order(ordered, 0, 2) == in_order(ordered, 1, 2)


def test_staged_epochs_finish_the_first_part_first() -> None:
    plan = make_plan(pairs_with(range(10)), threshold={"hardest": 0.3}, epochs="staged")
    easy, hard = [9, 8, 7, 6, 5, 4, 3], [2, 1, 0]
    assert in_order(plan, 0, 2) + in_order(plan, 1, 2) == easy * 2 + hard * 2
    assert len(in_order(plan, 0, 2)) == len(in_order(plan, 1, 2)) == 10


def test_refill_repeats_each_pair_of_a_sorted_plan_next_to_itself() -> None:
    plan = make_plan(pairs_with(range(10)), "selective_dpo", threshold={"hardest": 0.6}, refill=True)
    assert in_order(plan, 1, 2) == in_order(plan, 0, 2) == [9, 9, 9, 8, 8, 7, 7, 7, 6, 6]
    present = np.ones(10, dtype=bool)
    present[[8, 2]] = False  # lost in tokenisation: one that is kept, one that is dropped
    assert plan.epoch_rows(0, 2, present).tolist() == [9, 9, 9, 7, 7, 7, 6, 6]
    none = np.zeros(10, dtype=bool)
    assert plan.epoch_rows(0, 2, none).tolist() == []


def test_refill_shuffles_the_passes_of_a_shuffled_plan_and_goes_on_in_the_next_epoch() -> None:
    data = pairs_with(range(10))
    plan = make_plan(data, order="shuffled", threshold={"hardest": 0.6}, hard_route="drop", refill=True)
    epochs = [in_order(plan, epoch, 2) for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [10, 10]
    run = epochs[0] + epochs[1]
    passes = [run[start : start + 4] for start in range(0, 20, 4)]
    assert all(sorted(one) == [6, 7, 8, 9] for one in passes)
    assert len(set(map(tuple, passes))) > 1
    assert passes[0] == in_order(make_plan(data, order="shuffled", threshold={"hardest": 0.6}, hard_route="drop"))


@pytest.mark.parametrize("pacing", ["linear", "sqrt"])
@pytest.mark.parametrize(("order", "threshold"), [("easy_to_hard", None), ("hard_to_easy", {"hardest": 0.5})])
def test_paced_runs_draw_from_a_pool_that_grows(pacing: str, order: str, threshold: dict | None) -> None:
    n, epochs = 200, 3
    data = pairs_with(np.random.default_rng(0).permutation(n).tolist())
    plan = make_plan(data, order=order, threshold=threshold, hard_route="drop", pacing=pacing)
    by_order = in_order(make_plan(data, order=order, threshold=threshold, hard_route="drop"))
    run = np.concatenate([plan.epoch_rows(epoch, epochs) for epoch in range(epochs)])
    assert sorted(run.tolist()) == sorted(by_order * epochs), "every pair has one turn per epoch of the run"
    rank = np.argsort(by_order)[np.searchsorted(np.sort(by_order), run)]
    done = np.arange(len(run)) / len(run)
    # Platanios et al. 2019, equations 6 and 7, with c0 = 0.01
    pool = 0.01 + 0.99 * done if pacing == "linear" else np.sqrt(0.01**2 + (1 - 0.01**2) * done)
    assert (rank < np.ceil(pool * len(by_order))).all()
    correlation = np.corrcoef(rank, done)[0, 1]
    assert correlation > 0.99 if pacing == "linear" else 0.7 < correlation < 0.9


def test_pools_of_the_paper() -> None:
    np.testing.assert_allclose(pool_share(np.array([0, 0.25, 1, 2]), "linear", 0.2), [0.2, 0.4, 1, 1])
    np.testing.assert_allclose(pool_share(np.array([0, 0.25, 1, 2]), "sqrt", 0.2), [0.2, 0.28**0.5, 1, 1])


def test_buckets_are_thirds() -> None:
    plan = make_plan(pairs_with(range(9)))
    assert [BUCKETS[b] for b in plan.bucket] == ["hard"] * 3 + ["middle"] * 3 + ["easy"] * 3


def test_saved_plan_is_the_same_plan_and_refuses_other_data(tmp_path) -> None:
    data = pairs_with([1, 2, 2, 3, 0])
    plan = make_plan(data, threshold=2, order="hard_to_easy", seed=3)
    plan.save(tmp_path / "plan.parquet")
    loaded = Plan.load(tmp_path / "plan.parquet")
    assert loaded.settings == plan.settings
    assert loaded.threshold_margin == plan.threshold_margin
    for name in ("margin", "quantile", "bucket", "route", "position"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(plan, name))
    loaded.check_belongs_to(data)
    with pytest.raises(InputError, match="other data"):
        loaded.check_belongs_to(data.select([4, 3, 2, 1, 0]))
    with pytest.raises(InputError, match="5 pairs and the data 3"):
        loaded.check_belongs_to(data.select(range(3)))
    table = pq.read_table(tmp_path / "plan.parquet")
    assert table.column_names == ["pair_id", "row", "margin", "quantile", "bucket", "route", "position"]
    assert json.loads(table.schema.metadata[b"mixdpo.plan"])["settings"]["order"] == "hard_to_easy"
    assert plan.to_pandas().equals(table.to_pandas())


def test_plan_without_margins() -> None:
    data = Dataset.from_dict({"pair_id": ["a", "b", "c"]})
    plan = make_plan(data, "dpo")
    assert np.isnan(plan.margin).all()
    assert (plan.bucket == -1).all()
    with pytest.raises(InputError, match="margin/rating"):
        make_plan(data, "mixdpo")


def test_bad_files(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Plan.load(tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable parquet"):
        Plan.load(tmp_path / "broken.parquet")
    pairs_with([1, 2]).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a plan"):
        Plan.load(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": {"hardest": 2}}, "0 < f < 1"),
        ({"threshold": {"middle": 0.1}}, r"one key, as in \{hardest"),
        ({"threshold": {"hardest": 0.1, "easiest": 0.1}}, "one key"),
        ({"threshold": {"easiest": 0}}, "0 < f < 1"),
        ({"threshold": {"outside": [0.5]}}, "0 <= low < high <= 1"),
        ({"threshold": {"outside": [0.5, 0.2]}}, "0 <= low < high <= 1"),
        ({"threshold": {"outside": [0, 1]}}, "not all of 0 to 1"),
        ({"threshold": {"column": 3}}, "a column is named"),
        ({"threshold": "middle"}, "threshold is 'middle'"),
        ({"order": "random"}, "it is one of easy_to_hard"),
        ({"seed": -1}, "seed is -1"),
        ({"hard_route": "dpo"}, "it is one of preference"),
        ({"oder": "shuffled"}, "no setting 'oder'"),
        ({"easy_route": "drop", "hard_route": "drop"}, "drops every pair"),
        ({"threshold": None, "epochs": "staged"}, "two routes"),
        ({"refill": True}, "the plan drops none"),
        ({"pacing": "cubic"}, "it is one of linear, sqrt"),
        ({"pacing": "sqrt", "order": "shuffled"}, "an order by margin; set order to easy_to_hard or hard_to_easy"),
        ({"pacing": "sqrt", "first": "hard"}, "an order by margin"),
        ({"pacing": "sqrt", "epochs": "staged"}, "an order by margin"),
        ({"first": "hard", "hard_route": "preference"}, "needs two routes, and all are preference"),
    ],
)
def test_wrong_settings(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(pairs_with(range(10)), **change)
