"""Which arms are best or level with the best is read from the rewards of every seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_standing import standings

SEEDS = 20


def cell(name: str, gain_low: float = 0.15, **above: float) -> dict[str, Any]:
    """Return a cell of `map.json`: arms so much above DPO, whose gain is 0.2, with noise that is their own."""
    rng = np.random.default_rng(len(name))
    rewards = {"DPO": np.full(SEEDS, 0.7), **{arm: np.full(SEEDS, 0.7 + one) for arm, one in above.items()}}
    arms = {
        arm: {
            "rewards": (one + 0.01 * rng.standard_normal(SEEDS)).tolist(),
            "learning_rate": 3e-3 if arm == "IPO" else 1e-3,
        }
        for arm, one in rewards.items()
    }
    return {
        "world": "words",
        "name": name,
        "gain": {"estimate": 0.2, "low": gain_low},
        "arms": {**arms, START: {"rewards": [0.5] * SEEDS}},
    }


def test_level_is_where_none_is_clearly_better() -> None:
    cells = [cell("a", strong=0.04, level=0.04), cell("bb", strong=0.04, level=0.0)]
    table = {"arms": dict.fromkeys(["DPO", "level", "strong", "nowhere"]), "baseline": "DPO"}
    found = {one.arm: one for one in standings(table, cells)}
    assert list(found) == ["strong", "level", "DPO"]
    assert [(one.cells, one.level) for one in found.values()] == [(2, 2), (2, 1), (2, 0)]
    assert found["DPO"].short == pytest.approx(20, abs=3)  # per cent of the gain of 0.2
    assert found["level"].worst_cell == "bb"
    assert found["level"].worst == pytest.approx(20, abs=3)
    assert standings(table, []) == []


def test_arms_at_a_rate_of_their_own_are_left_out() -> None:
    table = {"arms": dict.fromkeys(["DPO", "IPO"]), "baseline": "DPO"}
    (one,) = standings(table, [cell("a", IPO=0.1)])
    assert (one.arm, one.level, one.short) == ("DPO", 1, 0.0)


def test_cells_without_a_clear_gain_are_left_out() -> None:
    table = {"arms": dict.fromkeys(["DPO", "other"]), "baseline": "DPO"}
    assert standings(table, [cell("a", gain_low=-0.01, other=0.1)]) == []
