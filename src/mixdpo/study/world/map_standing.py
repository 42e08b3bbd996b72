"""Which arms are best, or level with the best, and where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mixdpo.study.world.map_effects import holm_within, paired_effect
from mixdpo.study.world.map_settings import START

CLEAR: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How an arm stands in the cells of a world.

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


def standings(table: Mapping[str, Any], world: str) -> list[Standing]:
    """Return the arms of a world, those that are level in the largest share of their cells first."""
    cells = [cell for cell in table["cells"] if cell["world"] == world and cell["gain"]["low"] > 0]
    found = []
    for arm in table["arms"]:
        of_arm = [cell for cell in cells if arm in cell["arms"]]
        if not of_arm:
            continue
        behind = [_behind(cell, arm) for cell in of_arm]
        short = np.array([one for one, _ in behind])
        worst = int(short.argmax())
        level = sum(not clearly for _, clearly in behind)
        found.append(
            Standing(
                arm=arm, cells=len(of_arm), level=level, short=float(short.mean()), worst=float(short[worst]),
                worst_cell=of_arm[worst]["name"],
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (-one.level / one.cells, one.short))


def _behind(cell: Mapping[str, Any], arm: str) -> tuple[float, bool]:
    """Return how far an arm is behind a cell's best, in per cent of the gain, and whether one is clearly better."""
    rewards = {name: np.array(one["rewards"], dtype=np.float64) for name, one in cell["arms"].items() if name != START}
    ahead = {name: paired_effect(values - rewards[arm]) for name, values in rewards.items() if name != arm}
    adjusted = holm_within(ahead)
    clearly = any(one.low > 0 and adjusted[name] < CLEAR for name, one in ahead.items())
    furthest = max([0.0, *(one.estimate for one in ahead.values())])
    return 100 * furthest / cell["gain"]["estimate"], clearly
