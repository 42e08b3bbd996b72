"""The rule that advises plans: its table, where it places pairs, what it takes, and what it refuses to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixdpo.plan.advice_parts import Part, Range
from mixdpo.plan.advice_rule import LARGEST_VALUE, advise_parts
from mixdpo.plan.advice_words import reason, sentences, total_line, wrong_labels_line
from mixdpo.plan.rule_table import SHARE, TREATMENTS, RuleTable, Treatment, World, rule_of, shipped_rule

SURPLUSES = (-2.0, -1.0, 0.0, 1.0)
LEAST = 3.0


def cell(world: str, right: float, surplus: float, share: float = 0.3, **effects: float) -> dict[str, Any]:
    """A cell whose effects have intervals of 2 on either side; SFT at the end does nothing where nothing is said."""
    effects = {"sft_last": 0.0, **effects}
    return {
        "world": world, "name": f"{right} {surplus} {share}", "hard_share": share, "hard_quality": surplus,
        "hard_source": "writers", "epochs": 1, "learning_rate": None, "right": right, "surplus": surplus,
        "effects": {one: [effects[one], effects[one] - 2, effects[one] + 2] for one in TREATMENTS},
    }  # fmt: skip


def table(worlds: tuple[str, ...] = ("one", "other"), costs: bool = True) -> RuleTable:
    """SFT crosses at the trained policy's level; dropping gains 12 with coins' labels, nothing with right ones."""
    cells = [
        cell(world, right, surplus, drop=24 * (1 - right), smoothed=12 * (1 - right), sft=15 * surplus + 1)
        for world in worlds
        for right in (0.5, 1.0)
        for surplus in SURPLUSES
    ]
    cells += [cell(world, 0.5, 0.0, 0.1, drop=3, smoothed=1.5, sft=0.25) for world in worlds]
    cells += [{**one, "learning_rate": 1e-3, "effects": {key: [99, 98, 100] for key in TREATMENTS}} for one in cells]
    wrong = [{"world": world, "kind": "easy", "cost": [2.0, 1.0, 3.0]} for world in worlds]
    return rule_of({"cells": cells, "wrong_labels": wrong if costs else [], "map": {"name": "planted"}})


def known(value: float, within: float = 0.05) -> Range:
    return Range(estimate=value, low=value - within, high=value + within)


def part(share: float = 0.3, margin: float = 0.02, **measured: Any) -> Part:
    return Part(
        margin_min=margin,
        margin_max=margin,
        pairs=round(1000 * share),
        share=share,
        relative_margin=margin,
        **measured,
    )


EASY = part(0.7, 0.9)


def effect_of(world: World, treatment: Treatment, right: float, surplus: float, share: float = SHARE) -> np.ndarray:
    (effect,) = world.effects(treatment, np.array([right]), np.array([surplus]), share)
    return effect


def test_effects_are_linear_between_cells_and_end_with_them() -> None:
    world = table().worlds[0]
    assert effect_of(world, "sft", 0.5, -0.5) == pytest.approx([-6.5, -8.5, -4.5])
    assert effect_of(world, "drop", 0.75, -0.5) == pytest.approx([6, 4, 8])
    assert effect_of(world, "sft", 0.5, 9.0) == pytest.approx(effect_of(world, "sft", 0.5, 1.0))
    assert effect_of(world, "drop", 0.2, 0.0) == pytest.approx(effect_of(world, "drop", 0.5, 0.0))


def test_a_single_cell_moves_the_row_of_another_p() -> None:
    cells = [cell("one", 0.5, surplus, drop=10, smoothed=5, sft=15 * surplus) for surplus in SURPLUSES]
    cells.append(cell("one", 1.0, 0.0, drop=-4, smoothed=0, sft=-6))
    (world,) = rule_of({"cells": cells, "wrong_labels": [], "map": {}}).worlds
    assert effect_of(world, "sft", 1.0, 1.0)[0] == pytest.approx(15 - 6)
    assert effect_of(world, "drop", 1.0, -2.0)[0] == pytest.approx(-4)
    assert effect_of(world, "sft", 0.75, 1.0)[0] == pytest.approx((15 + 9) / 2)


def test_effects_grow_with_the_share_as_the_map_has_it() -> None:
    cells = _shares()
    one, other = rule_of(_as_table(cells)).worlds
    assert [effect_of(one, "drop", 0.5, 0.0, share)[0] for share in (0.0, 0.05, 0.1, 0.2, 0.3)] == pytest.approx(
        [0, 1.5, 3, 7.5, 12]
    )
    assert [effect_of(one, "drop", 0.5, 0.0, share)[0] for share in (0.4, 0.5, 0.9)] == pytest.approx([15, 18, 18])
    # An order of all pairs keeps most of its effect where few are hard; of other answers it keeps the same part.
    assert [effect_of(one, "sft_last", 0.5, 0.0, share)[0] for share in (0.05, 0.1, 0.2)] == pytest.approx([4, 8, 9])
    assert effect_of(one, "sft_last", 0.5, -1.0, 0.1)[0] == pytest.approx(4)
    assert effect_of(one, "sft", 0.5, -1.0, 0.5)[0] == pytest.approx(effect_of(one, "sft", 0.5, -1.0)[0] - 5)
    lacks = [row for row in cells if row["hard_share"] == 0.3 or row["world"] == "one"]
    borrowed = rule_of(_as_table(lacks)).worlds[1]
    for share in (0.1, 0.5):
        assert effect_of(borrowed, "drop", 0.5, 0.0, share) == pytest.approx(effect_of(other, "drop", 0.5, 0.0, share))


def test_a_world_without_cells_of_the_usual_share_says_nothing() -> None:
    cells = [*_full(("one",)), cell("other", 0.5, 0.0, 0.5, drop=9, smoothed=0, sft=0)]
    assert [world.name for world in rule_of(_as_table(cells)).worlds] == ["one"]


def _shares() -> list[dict[str, Any]]:
    return [
        cell(world, 0.5, 0.0, share, drop=drop, smoothed=drop / 2, sft=sft, sft_last=last)
        for world in ("one", "other")
        for share, drop, sft, last in ((0.1, 3, 0.25, 8), (0.3, 12, 1, 10), (0.5, 18, -4, 11))
    ] + [cell(world, 0.5, -1.0, drop=12, smoothed=6, sft=-14, sft_last=5) for world in ("one", "other")]


@pytest.mark.parametrize(
    ("right", "surplus", "route", "effect"),
    [
        (0.5, -1.5, "drop", 12),
        (0.5, 1.0, "sft", 16),
        (1.0, -1.5, "preference", None),
        (1.0, 1.0, "sft", 16),
        (0.6, 0.2, "drop", 9.6),
    ],
)
def test_the_route_that_gains_most_is_taken(right, surplus, route, effect) -> None:
    advice = advise_parts([part(right=known(right), surplus=known(surplus)), EASY], table(), LEAST)
    hard, easy = advice.parts
    assert hard.route == route
    assert hard.is_hard
    assert not easy.is_hard
    assert (easy.route, easy.effect, reason(easy, LEAST)) == ("preference", None, "")
    if effect is None:
        assert hard.hardly
        assert hard.effect is None
        assert advice.effect == Range(estimate=0, low=0, high=0)
    else:
        assert hard.effect is not None
        assert hard.effect.estimate == pytest.approx(effect)
        assert hard.effect.low <= effect - 2
        assert advice.effect == hard.effect
    assert advice.measurements == []


def test_the_interval_holds_what_p_and_the_surplus_may_be() -> None:
    wide = part(right=Range(estimate=0.5, low=0.5, high=0.75), surplus=Range(estimate=1.0, low=0.8, high=1.2))
    (hard, _) = advise_parts([wide, EASY], table(), LEAST).parts
    assert hard.effects["drop"] == Range(estimate=12, low=4, high=14)
    assert (hard.effects["sft"].low, hard.effects["sft"].high) == pytest.approx((15 * 0.8 - 1, 18))


def test_without_a_measurement_the_whole_range_counts() -> None:
    advice = advise_parts([part(right=known(0.5)), EASY], table(), LEAST)
    hard = advice.parts[0]
    assert hard.route == "drop"
    assert "not known" in reason(hard, LEAST)
    assert hard.effects["sft"].low < -29
    assert hard.effects["sft"].high > 16
    assert [(one.of, one.pairs) for one in advice.measurements] == [("quality", 300)]
    assert advice.measurements[0].gain == pytest.approx(16 - 12)


def test_one_policy_bounds_the_surplus() -> None:
    worse = Range(estimate=None, low=-np.inf, high=-1.0)
    advice = advise_parts([part(right=known(0.5), surplus=worse, policies="start"), EASY], table(), LEAST)
    assert advice.parts[0].route == "drop"
    assert advice.measurements == []  # no quality under the start's makes SFT the better one
    better = Range(estimate=None, low=0.0, high=np.inf)
    advice = advise_parts([part(right=known(1.0), surplus=better, policies="trained"), EASY], table(), LEAST)
    assert advice.parts[0].route == "sft"


def test_unknown_labels_are_worth_measuring_where_they_decide() -> None:
    advice = advise_parts([part(surplus=known(-1.5)), EASY], table(), LEAST)
    assert "smoothed" not in advice.parts[0].effects
    assert advice.parts[0].route == "drop"  # 6 in the mean over P, never a loss
    assert advice.measurements == []
    costly = [{**one, "effects": {**one["effects"], "drop": [20, 18, 22] if one["right"] < 1 else [-20, -22, -18]}}
              for one in _full(("one",))]  # fmt: skip
    advice = advise_parts([part(surplus=known(-1.5)), EASY], rule_of(_as_table(costly)), LEAST)
    assert advice.parts[0].route == "preference"
    assert not advice.parts[0].hardly or advice.measurements
    assert [(one.of, one.gain) for one in advice.measurements] == [("labels", pytest.approx(20))]


def _full(worlds: tuple[str, ...], sft: float = 15.0) -> list[dict[str, Any]]:
    return [
        cell(world, right, surplus, drop=0, smoothed=0, sft=sft * surplus)
        for world in worlds
        for right in (0.5, 1.0)
        for surplus in SURPLUSES
    ]


def _as_table(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cells": cells, "wrong_labels": [], "map": {}}


def test_what_one_world_contradicts_is_not_advised() -> None:
    cells = _full(("one",)) + _full(("other",), sft=-5.0)
    advice = advise_parts([part(right=known(0.5), surplus=known(1.0)), EASY], rule_of(_as_table(cells)), LEAST)
    hard = advice.parts[0]
    assert hard.route == "preference"
    assert not hard.hardly
    assert hard.harms == {"sft": ["other"]}
    assert hard.by_world["sft"] == {"one": pytest.approx(15), "other": pytest.approx(-5)}
    assert "gains in some of the map's worlds (one) and loses in others (other)" in reason(hard, LEAST)


def test_what_is_least_behind_in_any_world_is_advised() -> None:
    """Dropping gains most on average, and is far behind in one world."""
    cells = [
        cell(world, 0.5, surplus, drop=drop, smoothed=0, sft=0, sft_last=last)
        for world, drop, last in (("one", 30, 24), ("other", 4, 9)) for surplus in SURPLUSES
    ]  # fmt: skip
    advice = advise_parts([part(right=known(0.5), surplus=known(0.0)), EASY], rule_of(_as_table(cells)), LEAST)
    assert advice.parts[0].route == "drop"
    cells = [{**one, "effects": {**one["effects"], "drop": [28, 26, 30]}} if one["world"] == "one" else one
             for one in cells]  # fmt: skip
    advice = advise_parts([part(right=known(0.5), surplus=known(0.0)), EASY], rule_of(_as_table(cells)), LEAST)
    assert advice.parts[0].route == "sft_last"
    assert "Sort all pairs" in reason(advice.parts[0], LEAST)


def test_few_hard_pairs_hardly_matter() -> None:
    advice = advise_parts([part(0.05, right=known(0.5), surplus=known(1.0)), part(0.95, 0.9)], table(), LEAST)
    assert advice.parts[0].route == "preference"
    assert advice.parts[0].hardly
    assert advice.parts[0].effects["sft"].estimate == pytest.approx(16 / 8)


def test_splitting_a_part_changes_nothing() -> None:
    measured = {"right": known(0.5), "surplus": known(-1.5)}
    whole = advise_parts([part(0.3, **measured), EASY], table(), LEAST)
    split = advise_parts([part(0.1, **measured) for _ in range(3)] + [EASY], table(), LEAST)
    assert {one.route for one in split.parts[:3]} == {whole.parts[0].route}
    assert split.effect.estimate == pytest.approx(whole.effect.estimate)
    assert split.effect.low == pytest.approx(whole.effect.low)


def test_pairs_are_hard_by_what_they_are_worth_to_a_preference_loss() -> None:
    of = [part(0.3, 0.4, right=known(0.55)), part(0.3, 0.4, right=known(0.9)), part(0.4, 0.9)]
    advice = advise_parts(of, table(), LEAST)
    assert [one.is_hard for one in advice.parts] == [True, False, False]
    assert LARGEST_VALUE > (2 * 0.55 - 1) * 0.4
    contradicted = advise_parts([part(0.3, -0.4), EASY], table(), LEAST)
    assert contradicted.parts[0].is_hard


def test_wrong_labels_of_easy_pairs_are_told_with_their_cost() -> None:
    wrong = part(0.7, 0.75, right=known(0.9, 0.02))
    advice = advise_parts([part(), wrong], table(), LEAST)
    assert advice.wrong_labels is not None
    assert advice.wrong_labels.share == pytest.approx(0.07)
    assert advice.wrong_labels.pairs == 70
    assert advice.wrong_labels.cost is not None
    assert advice.wrong_labels.cost.estimate == pytest.approx(14)
    assert advice.wrong_labels.cost.low == pytest.approx(100 * 0.7 * 0.08 * 1)
    small = part(0.7, 0.375, right=known(0.9, 0.02))  # a wrong label costs in proportion to its margin
    assert advise_parts([part(), small], table(), LEAST).wrong_labels.cost.estimate == pytest.approx(7)
    assert advise_parts([part(), wrong], table(costs=False), LEAST).wrong_labels.cost is None
    sure = part(0.7, 0.75, right=known(0.99, 0.005))
    assert advise_parts([part(), sure], table(), LEAST).wrong_labels is None  # 1.4 % does not matter
    unclear = part(0.7, 0.75, right=Range(estimate=0.9, low=0.8, high=1.0))
    assert advise_parts([part(), unclear], table(), LEAST).wrong_labels is None


def test_the_shipped_table_is_complete() -> None:
    rule = shipped_rule()
    assert rule.worlds
    low, high = rule.surpluses
    assert low < -1 < 0 < high
    for world in rule.worlds:
        for treatment in TREATMENTS:
            estimate, low, high = effect_of(world, treatment, 0.6, -0.3)
            assert low <= estimate <= high
        few, some = (effect_of(world, "drop", 0.5, -1.0, share)[0] for share in (0.1, 0.3))
        assert 0 < few < some


def test_sentences_say_what_is_not_known_and_how_to_know_it() -> None:
    advice = advise_parts([part(right=known(0.5)), part(0.7, 0.75, right=known(0.9, 0.02))], table(), LEAST)
    assert "+12 %" in total_line(advice)
    said = sentences(advice)
    assert said["total"] == total_line(advice)
    assert len(said["parts"]) == 2
    assert "300 hard pairs" in said["unknown"][0]
    assert "rate PAIRS --against" in said["unknown"][0]
    assert advice.wrong_labels is not None
    assert "14 % (6 to 25)" in wrong_labels_line(advice.wrong_labels)
    far = advise_parts([part(right=known(0.5), surplus=known(4.0)), EASY], table(), LEAST)
    assert far.parts[0].beyond
    assert "nearest" in reason(far.parts[0], LEAST)
    assert "No pairs are hard" in total_line(advise_parts([EASY], table(), LEAST))
    only_coins = rule_of(_as_table([one for one in _full(("one",)) if one["right"] == 0.5]))
    assert advise_parts([part(right=known(0.9), surplus=known(0.0)), EASY], only_coins, LEAST).parts[0].beyond
    assert not advise_parts([part(right=known(0.45), surplus=known(0.0)), EASY], only_coins, LEAST).parts[0].beyond
    assert sentences(far)["unknown"] == []
    decided = sentences(advise_parts([part(surplus=known(-1.5)), EASY], table(), LEAST))["unknown"]
    assert [line for line in decided if "labels" in line and "would not change" in line]
    few = advise_parts([part(0.02, right=known(0.5)), part(0.98, 0.9)], table(), LEAST)
    assert "hardly matters" in reason(few.parts[0], LEAST)
    assert "no route" in total_line(few)
