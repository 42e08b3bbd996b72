"""The check of the advice: the best arm is chosen on other seeds than compared on, and bad advice is found out."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixdpo.plan.rule_table import RuleTable, rule_of
from mixdpo.study.world.map_rule import ARMS
from mixdpo.study.world.map_table import save_table
from mixdpo.study.world.rule_check import check_rule, check_table

SEEDS = 20
EFFECTS = {"drop": lambda at: 10, "smoothed": lambda at: 2, "sft": lambda at: 30 * at, "sft_last": lambda at: 0}
SCRIPT = Path(__file__).parents[3] / "scripts" / "check_rule.py"


def rule() -> RuleTable:
    """SFT gains 30 per cent of DPO's gain at a surplus of 1, dropping 10 everywhere."""
    cells = [
        {
            "world": "one", "hard_share": 0.3, "hard_quality": at, "hard_source": "writers", "epochs": 1,
            "learning_rate": None, "right": 0.5, "surplus": at,
            "effects": {one: [of(at), of(at) - 1, of(at) + 1] for one, of in EFFECTS.items()},
        }
        for at in (-1.0, 1.0)
    ]  # fmt: skip
    return rule_of({"cells": cells, "wrong_labels": [], "map": {}})


def held_out(quality: float, of_gain: dict[str, float], spread: float = 0.01) -> dict[str, Any]:
    """A regime of start 0.5, DPO 0.7 and a level of 0.72, whose arms gain so many per cent of 0.2 over DPO."""
    rng = np.random.default_rng(0)
    means = {"start": 0.5, "DPO": 0.7, "sorted": 0.7} | {
        arm: 0.7 + 0.002 * of_gain.get(arm, 0) for arm in ARMS.values()
    }
    cell = {
        "world": "other", "name": f"quality {quality}", "hard_share": 0.3, "gain": {"low": 0.19},
        "measured": {"hard_quality": quality, "hard_right": 0.6, "easy_right": 0.95},
        "arms": {
            arm: {
                "rewards": list(mean + spread * rng.standard_normal(SEEDS)), "means": {"reward": mean},
                "learning_rate": 1e-3,
            }
            for arm, mean in means.items()
        },
    }  # fmt: skip
    return {"version": 1, "baseline": "DPO", "seeds": list(range(SEEDS)), "cells": [cell]}


GOOD = {"dropped, equal updates": 10, "SFT mixed in": 30}


def test_good_advice_holds() -> None:
    (one,) = check_rule(held_out(0.92, GOOD), rule(), 3, all_arms=False)
    assert (one.advised, one.best) == ("SFT mixed in", "SFT mixed in")
    assert one.surplus == pytest.approx(0.2 / 0.22)
    assert one.lost.estimate == 0
    assert one.holds
    assert one.expected.estimate == pytest.approx(30 * 0.2 / 0.22)
    assert one.gained.estimate == pytest.approx(30, abs=3)
    assert "1 of 1 cells" in check_table([one]).title


def test_bad_advice_does_not() -> None:
    (one,) = check_rule(held_out(0.92, {"dropped, equal updates": 10, "SFT mixed in": -20}), rule(), 3, all_arms=False)
    assert one.advised == "SFT mixed in"
    assert one.best == "dropped, equal updates"
    assert one.lost.estimate == pytest.approx(30, abs=4)
    assert not one.holds
    assert "0 of 1" in check_table([one]).title


def test_other_arms_count_only_where_they_are_asked_for() -> None:
    table = held_out(0.92, GOOD)
    table["cells"][0]["arms"]["sorted"]["rewards"] = [0.9] * SEEDS
    assert [one.best for one in check_rule(table, rule(), 3, all_arms=False)] == ["SFT mixed in"]
    assert [one.best for one in check_rule(table, rule(), 3, all_arms=True)] == ["sorted"]


def test_the_best_arm_is_not_compared_on_the_seeds_that_chose_it() -> None:
    """Arms that differ by chance alone lose nothing in the mean, though the best is ahead where it is chosen."""
    lost = []
    for seed in range(200):
        table = held_out(0.72, {}, 0.0)
        rng = np.random.default_rng(seed)
        for name, arm in table["cells"][0]["arms"].items():
            arm["rewards"] = list((0.5 if name == "start" else 0.7) + 0.02 * rng.standard_normal(SEEDS))
        (one,) = check_rule(table, rule(), 3, all_arms=False)
        lost.append(one.lost.estimate)
    assert abs(np.mean(lost)) < 3 * np.std(lost) / np.sqrt(len(lost))


def test_cells_without_a_gain_or_an_arm_are_left_out() -> None:
    table = held_out(0.92, GOOD)
    table["cells"][0]["gain"]["low"] = -0.01
    assert list(check_rule(table, rule(), 3, all_arms=False)) == []
    table = held_out(0.92, GOOD)
    del table["cells"][0]["arms"]["smoothed by P"]
    assert list(check_rule(table, rule(), 3, all_arms=False)) == []


def test_the_script_says_whether_nine_of_ten_hold(tmp_path, capsys, monkeypatch) -> None:
    table = held_out(0.3, {"dropped, equal updates": 15, "SFT mixed in": -40})
    save_table(table, tmp_path)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr(sys, "argv", ["check_rule.py"])
    monkeypatch.setitem(main.__globals__, "shipped_rule", rule)
    assert main([str(tmp_path / "map.json"), "--output", str(tmp_path / "checks.md")]) == 0
    assert "1 of 1 cells" in capsys.readouterr().out
    assert "| other | quality 0.3 |" in (tmp_path / "checks.md").read_text()
    table["cells"][0]["arms"]["DPO"]["rewards"] = [0.75 + 0.0001 * seed for seed in range(SEEDS)]
    save_table(table, tmp_path)
    assert main([str(tmp_path / "map.json")]) == 1
    assert main([str(tmp_path / "none.json")]) == 2
