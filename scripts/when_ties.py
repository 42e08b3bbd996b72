"""What the map predicts for the study of good and poor ties: its contrast, world by world, in per cent of the gain."""

from __future__ import annotations

import numpy as np

from map_answers import CellRow, Table, rewards
from map_questions import DROPPED, MIXED
from mixdpo.study.world.map_crossing import crossing_cells
from mixdpo.study.world.map_effects import PairedEffect, paired_effect
from mixdpo.study.world.map_format import listed
from mixdpo.study.world.map_settings import START


def ties_block(table: Table) -> str:
    """Say how large the contrast of the study file is in the worlds: from the poorest ties to the best."""
    told = []
    for cells in crossing_cells(table).values():
        poor, good = cells[0], cells[-1]
        share = contrast(table, poor, good)
        told.append(
            f"{share.estimate:.0f} % in {poor['world']} ({share.low:.0f} to {share.high:.0f}; quality "
            f"{poor['hard_quality']:g} to {good['hard_quality']:g})"
        )
    if not told:
        return "The map has no cells that predict it."
    return (
        f"In the map the same contrast, {MIXED} less {DROPPED} on the best ties less the same on the poorest, is in "
        f"per cent of {table['baseline']}'s gain: {listed(told)}."
    )


def contrast(table: Table, poor: CellRow, good: CellRow) -> PairedEffect:
    """Return the difference of differences in per cent of the baseline's mean gain in the two cells."""
    (on_poor, on_good) = (rewards(cell, MIXED) - rewards(cell, DROPPED) for cell in (poor, good))
    gain = np.mean([rewards(cell, table["baseline"]).mean() - rewards(cell, START).mean() for cell in (poor, good)])
    return paired_effect(100 * (on_good - on_poor) / gain)
