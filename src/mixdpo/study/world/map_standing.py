"""Which arms are best, or level with the best, and where they are not.

Arms at another learning rate than the baseline's, which objectives of another scale are tuned to, are left out: they
would be ahead or behind by their rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mixdpo.study.world.map_effects import holm_within, paired_effect
from mixdpo.study.world.map_settings import START

CLEAR: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How an arm stands in some cells.

    Attributes:
        arm: its name.
        cells: in which it was run and the baseline clearly gains.
        level: of these, where no other arm is clearly better (paired t over seeds, Holm over the others).
        short: mean over cells of how far it is behind the arm with the highest mean there, in per cent of the
            baseline's gain; the highest of many means is flattered by chance.
        worst: the largest of these, and `worst_cell` where.
    """

    arm: str
    cells: int
    level: int
    short: float
    worst: float
    worst_cell: str


def standings(table: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[Standing]:
    """Return the arms of some cells of a map, those that are level in the largest share of their cells first."""
    gaining = [(cell, comparable_rewards(table, cell)) for cell in cells if cell["gain"]["low"] > 0]
    found = []
    for arm in table["arms"]:
        of_arm = [(cell, rewards) for cell, rewards in gaining if arm in rewards]
        if not of_arm:
            continue
        behind = [_behind(cell, rewards, arm) for cell, rewards in of_arm]
        short = np.array([one for one, _ in behind])
        worst = int(short.argmax())
        level = sum(not clearly for _, clearly in behind)
        found.append(
            Standing(
                arm=arm, cells=len(of_arm), level=level, short=float(short.mean()), worst=float(short[worst]),
                worst_cell=of_arm[worst][0]["name"],
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (-one.level / one.cells, one.short))


def comparable_rewards(table: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the rewards of the arms that were trained at the baseline's learning rate; float64, shape (S,)."""
    rate = cell["arms"][table["baseline"]]["learning_rate"]
    return {
        name: np.array(one["rewards"], dtype=np.float64)
        for name, one in cell["arms"].items() if name != START and one["learning_rate"] == rate
    }  # fmt: skip


def _behind(cell: Mapping[str, Any], rewards: Mapping[str, np.ndarray], arm: str) -> tuple[float, bool]:
    """Return how far an arm is behind a cell's best, in per cent of the gain, and whether one is clearly better."""
    ahead = {name: paired_effect(values - rewards[arm]) for name, values in rewards.items() if name != arm}
    adjusted = holm_within(ahead)
    clearly = any(one.low > 0 and adjusted[name] < CLEAR for name, one in ahead.items())
    furthest = max([0.0, *(one.estimate for one in ahead.values())])
    return 100 * furthest / cell["gain"]["estimate"], clearly
