"""The crossing of a map: SFT on hard pairs less dropping them, by how good the answers of these pairs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixdpo.study.world.map_effects import PairedEffect, paired_effect
from mixdpo.study.world.map_settings import START


@dataclass(frozen=True, kw_only=True)
class CrossingPoint:
    """One cell of the crossing; all numbers are rewards.

    Attributes:
        surplus: quality of the hard pairs' chosen answers less the level that the other pairs alone lead to.
        climb: that level less the start.
        effect: of the crossing's arm less the one that leaves hard pairs out.
        gain: of the baseline over the start, None where it does not clearly gain.
    """

    surplus: float
    climb: float
    effect: PairedEffect
    gain: float | None

    @property
    def height(self) -> float:
        """Quality on a scale without a unit: 0 as good as the level, -1 as good as the start."""
        return self.surplus / self.climb

    @property
    def of_gain(self) -> tuple[float, float, float] | None:
        """The effect and both ends of its interval in per cent of the baseline's gain."""
        if self.gain is None:
            return None
        estimate, low, high = (
            100 * value / self.gain for value in (self.effect.estimate, self.effect.low, self.effect.high)
        )
        return estimate, low, high


def crossing_cells(table: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return for each world the cells of one row of qualities, the poorest first.

    Of several rows of a world that with the most noisy labels is taken, and of those the first.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for row in table["break_even"]:
        if row["world"] not in rows or row["hard_labels_right"] < rows[row["world"]]["hard_labels_right"]:
            rows[row["world"]] = row
    cells = {(cell["world"], cell["name"]): cell for cell in table["cells"]}
    return {world: [cells[world, name] for name in row["cells"]] for world, row in rows.items()}


def crossing_rows(table: Mapping[str, Any]) -> dict[str, list[CrossingPoint]]:
    """Return the points of `crossing_cells`."""
    return {world: [crossing_of(table, cell) for cell in cells] for world, cells in crossing_cells(table).items()}


def crossing_of(table: Mapping[str, Any], cell: Mapping[str, Any]) -> CrossingPoint:
    """Return what the figure shows of a cell."""
    arm, against = (np.array(cell["arms"][table["crossing"][one]]["rewards"]) for one in ("arm", "against"))
    gain = cell["gain"]
    return CrossingPoint(
        surplus=float(np.mean(cell["quality"]) - against.mean()),
        climb=float(against.mean() - np.mean(cell["arms"][START]["rewards"])),
        effect=paired_effect(arm - against),
        gain=gain["estimate"] if gain["low"] > 0 else None,
    )


def turns(points: Sequence[CrossingPoint]) -> bool:
    """Whether SFT clearly harms where answers are poorest, and clearly helps where they are best."""
    return points[0].effect.high < 0 < points[-1].effect.low
