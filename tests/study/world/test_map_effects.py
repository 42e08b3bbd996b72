"""The analysis of maps recovers planted worlds; arms that differ by chance raise as many alarms as they may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from check_crossing import main as check_crossing
from maps import map_file
from mixdpo.study.world.map_effects import break_even, by_base, paired_effect
from mixdpo.study.world.map_figure import crossing_description, crossing_title, drawn_rows
from mixdpo.study.world.map_file import load_map
from mixdpo.study.world.map_report import write_map_report
from mixdpo.study.world.map_runs import MapRun, final_runs
from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_table import MEASURES, load_table, map_table, save_table
from mixdpo.study.world.pairs import Cell

SIMULATIONS = 500
SEEDS = 20
START_REWARD, LEVEL, GAIN, SLOPE = 0.54, 0.75, 0.2, 0.3


def share_bounds(rate: float, simulations: int = SIMULATIONS) -> tuple[float, float]:
    low, high = stats.binom.ppf([0.0005, 0.9995], simulations, rate) / simulations
    return float(low), float(high)


def differences(rng: np.random.Generator, effect: float = 0.0, spread: float = 0.01) -> np.ndarray:
    """Two arms of one reward but for an effect and luck, of which they share the larger part."""
    shared = rng.normal(0.7, 0.03, SEEDS)
    one, other = shared + rng.normal(0, spread / np.sqrt(2), (2, SEEDS))
    return effect + one - other


def test_null_arms_raise_alarms_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    effects = [paired_effect(differences(rng)) for _ in range(SIMULATIONS)]
    alarms = [one.low > 0 or one.high < 0 for one in effects]
    assert alarms == [one.p_value < 0.05 for one in effects]
    low, high = share_bounds(0.05)
    assert low <= np.mean(alarms) <= high


def test_an_effect_of_the_detectable_size_is_found_with_80_percent_power() -> None:
    rng = np.random.default_rng(2)
    size = float(np.mean([paired_effect(differences(rng)).detectable for _ in range(200)]))
    assert size == pytest.approx(0.66 * 0.01, rel=0.02)  # what the map file says of 20 seeds
    hits = [paired_effect(differences(rng, size)).p_value < 0.05 for _ in range(SIMULATIONS)]
    assert np.mean(hits) == pytest.approx(0.8, abs=0.05)


def test_break_even_covers_the_planted_quality() -> None:
    rng, quality = np.random.default_rng(3), np.array([0.35, 0.5, 0.65, 0.78, 0.88])
    simulations, covered = 25, 0
    for number in range(simulations):
        luck = rng.normal(0, 0.02, (SEEDS, len(quality)))
        found = break_even(np.tile(quality, (SEEDS, 1)), SLOPE * (quality - 0.71) + luck, seed=number)
        assert found.estimate == pytest.approx(0.71, abs=0.08)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.71 <= found.high
    assert share_bounds(0.93, simulations)[0] <= covered / simulations


@pytest.mark.parametrize(("shift", "side"), [(0.5, "below"), (-0.5, "above")])
def test_break_even_outside_what_was_measured_is_said_to_be_there(shift: float, side: str) -> None:
    quality = np.tile([0.4, 0.6, 0.8], (6, 1))
    found = break_even(quality, quality - 0.6 + shift)
    assert found.estimate is None
    assert getattr(found, side) == 1.0


def test_effects_that_fall_and_rise_have_one_crossing() -> None:
    quality, effect = np.tile([0.2, 0.4, 0.6, 0.8], (4, 1)), np.tile([-0.1, 0.02, -0.02, 0.1], (4, 1))
    assert break_even(quality, effect).estimate == pytest.approx(0.6)  # the middle two are pooled, to zero


def test_by_base() -> None:
    assert by_base(np.array([1.0, 2.0, 3.0, 5.0]), [0, 1, 3, 4], 3) == [2.0, 3.5, None]


def planted(run: MapRun, quality: float, right: float, rng: np.random.Generator) -> dict[str, float]:
    """Results of a world whose rewards are known: SFT is worth the surplus of quality, labels what they say."""
    luck_of_seed = np.random.default_rng([5, run.seed]).normal(0, 0.02)
    reward = {
        START: START_REWARD,
        "DPO": START_REWARD + GAIN,
        "dropped": LEVEL,
        "SFT mixed in": LEVEL + SLOPE * (quality - LEVEL) + 0.01 * right,
    }[run.arm]
    values = dict.fromkeys(MEASURES, reward + luck_of_seed + rng.normal(0, 0.006))
    return {**values, "hard_quality": quality, "hard_right": right, "easy_right": 1.0}


def test_a_planted_world_is_recovered(tmp_path: Path) -> None:
    cells = [{"hard_quality": [0.35, 0.5, 0.65, 0.8, 0.9], "hard_labels_right": [0.5, 1.0]}]
    settings = load_map(map_file(tmp_path, {"worlds/words/cells": cells, "seeds": list(range(SEEDS))}))
    rng, runs = np.random.default_rng(7), list(final_runs(settings, {}))
    results = []
    for run in runs:
        pairs = settings.worlds["words"].cells[run.cell].pairs
        assert isinstance(pairs, Cell)
        results.append((run, planted(run, pairs.hard_quality, pairs.hard_labels_right, rng)))
    table = map_table(settings, results)
    covered = []
    for cell in table["cells"]:
        truth = SLOPE * (cell["hard_quality"] - LEVEL) + 0.01 * cell["hard_labels_right"]
        found = cell["contrasts"]["mixed in less dropped"]
        covered.append(found["low"] <= truth <= found["high"])
        assert found["estimate"] == pytest.approx(truth, abs=4 * 0.0085 / np.sqrt(SEEDS))
        assert found["of_gain"][0] == pytest.approx(100 * truth / GAIN, abs=5)
        assert np.nanmean(found["by_base"]) == pytest.approx(truth, abs=0.01)
        assert cell["gain"]["estimate"] == pytest.approx(GAIN, abs=0.01)
        assert 0 < found["detectable"] < 0.01
    assert sum(covered) >= 8  # of ten at 95 %
    for row in table["break_even"]:
        truth = LEVEL - 0.01 * row["hard_labels_right"] / SLOPE
        assert row["quality"]["low"] <= truth <= row["quality"]["high"]
        assert row["surplus"]["low"] <= truth - LEVEL <= row["surplus"]["high"]
    assert [row["hard_labels_right"] for row in table["break_even"]] == [0.5, 1.0]

    save_table(table, tmp_path)
    assert load_table(tmp_path / "map.json") == table
    write_map_report(table, tmp_path)
    page, every_cell = ((tmp_path / name).read_text() for name in ("map.md", "cells.md"))
    assert "quality at break-even" in page
    assert all(cell["name"] in every_cell for cell in table["cells"])
    assert check_crossing([str(tmp_path / "map.json")]) == 0
    assert (tmp_path / "crossing.png").stat().st_size > 5000
    assert crossing_title(table) == "SFT on hard pairs turns from harm to help as their answers get better"
    assert crossing_description(table) in (tmp_path / "crossing-dark.svg").read_text(encoding="utf-8")


def test_the_figure_claims_what_the_intervals_show() -> None:
    def world(name: str, poorest: float, best: float, gain: float = 0.2) -> list[dict[str, Any]]:
        noise = np.array([-0.01, 0.0, 0.01])

        def arm(reward: float) -> dict[str, Any]:
            return {"rewards": (reward + noise).tolist()}

        return [
            {
                "world": name, "name": f"{quality}", "quality": [quality] * 3, "gain": {"estimate": gain, "low": gain},
                "arms": {
                    "start": arm(0.5), "dropped": arm(0.7), "SFT": {"rewards": (0.7 + effect + 2 * noise).tolist()},
                },
            }
            for quality, effect in ((0.4, poorest), (0.8, best))
        ]  # fmt: skip

    def table(*worlds: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [
            {"world": cells[0]["world"], "hard_labels_right": 0.5, "cells": [cell["name"] for cell in cells]}
            for cells in worlds
        ]
        crossing = {"arm": "SFT", "against": "dropped"}
        return {
            "cells": [cell for cells in worlds for cell in cells],
            "break_even": rows,
            "crossing": crossing,
            "seeds": [1, 2, 3],
        }

    words, lists = world("words", -0.1, 0.1), world("lists", 0.1, 0.1)
    assert crossing_title(table(words)).endswith("get better")
    assert crossing_title(table(words, lists)).endswith("get better:\nin words, not in lists")
    assert "harm to help" not in crossing_title(table(lists))
    assert "harm to help" not in crossing_title(table(world("words", -0.01, 0.1)))  # not clear
    assert list(drawn_rows(table(words, world("letters", -0.1, 0.1, gain=-0.1)))) == ["words"]
    (poor, good) = drawn_rows(table(words))["words"]
    assert (poor.height, good.height) == pytest.approx((-1.5, 0.5))
    assert poor.of_gain[0] == pytest.approx(-50)
