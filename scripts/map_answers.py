"""What a map answers: comparisons in each of its worlds, at the same seeds, with intervals and Holm's correction.

Legend: S seeds, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixdpo.study.world.map_effects import PairedEffect, holm_within, paired_effect
from mixdpo.study.world.map_settings import START

Table = Mapping[str, Any]
CellRow = Mapping[str, Any]
CLEAR = 0.05


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison in one world.

    Attributes:
        effect: in reward, over seeds; the mean over cells is taken first.
        share: the same in per cent of the baseline's gain in these cells, None where it does not clearly gain.
        cells: how many there are.
    """

    world: str
    effect: PairedEffect
    share: PairedEffect | None
    cells: int
    differences: np.ndarray
    shares: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question to the map, answered in every world that has the cells."""

    name: str
    compared: tuple[Compared, ...]
    about: str = ""


def worlds(table: Table) -> list[str]:
    """Return the names of the map's worlds in its order."""
    return list(dict.fromkeys(cell["world"] for cell in table["cells"]))


def rewards(cell: CellRow, arm: str) -> np.ndarray:
    """Return an arm's rewards in a cell, float64, shape (S,)."""
    return np.array(cell["arms"][arm]["rewards"], dtype=np.float64)


def compare(table: Table, cells: Iterable[CellRow], arm: str, against: str) -> tuple[Compared, ...]:
    """Compare two arms in the cells in which both are run, world by world."""
    by_world: dict[str, list[CellRow]] = {}
    for cell in cells:
        if {arm, against} <= cell["arms"].keys():
            by_world.setdefault(cell["world"], []).append(cell)
    return tuple(
        compared(table, world, np.mean([rewards(c, arm) - rewards(c, against) for c in found], axis=0), found)
        for world, found in by_world.items()
    )


def compared(table: Table, world: str, differences: np.ndarray, cells: Sequence[CellRow]) -> Compared:
    """Return what differences of seeds, float64 of shape (S,), are worth; in units of the gain in `cells`."""
    gains = paired_effect(np.mean([rewards(cell, table["baseline"]) - rewards(cell, START) for cell in cells], axis=0))
    shares = 100 * differences / gains.estimate if gains.low > 0 else None
    return Compared(
        world=world, effect=paired_effect(differences), share=None if shares is None else paired_effect(shares),
        cells=len(cells), differences=differences, shares=shares,
    )  # fmt: skip


def pooled(row: Row) -> tuple[PairedEffect, float | None]:
    """Return the mean over worlds, and that of the shares; worlds count alike, whatever they have of cells."""
    effect = paired_effect(np.mean([one.differences for one in row.compared], axis=0))
    shares = [one.shares for one in row.compared if one.shares is not None]
    return effect, float(np.mean(shares)) if shares else None


def clear_signs(rows: Sequence[Row]) -> list[dict[str, int]]:
    """Return for each row by world 1, -1, or 0 where nothing is clear, after Holm's correction over all of them."""
    effects = {f"{number}/{one.world}": one.effect for number, row in enumerate(rows) for one in row.compared}
    adjusted = holm_within(effects)
    return [
        {
            one.world: int(np.sign(one.effect.estimate)) if adjusted[f"{number}/{one.world}"] < CLEAR else 0
            for one in row.compared
        }
        for number, row in enumerate(rows)
    ]


def where(table: Table, condition: Callable[[CellRow], bool]) -> list[CellRow]:
    """Return the cells that meet a condition."""
    return [cell for cell in table["cells"] if condition(cell)]


def is_tuned(cell: CellRow) -> bool:
    """Whether arms have their tuned learning rates in a cell."""
    return cell["learning_rate"] is None


def is_usual(cell: CellRow) -> bool:
    """Whether a cell is of set quality, with all labels of its other pairs right, and one epoch of tuned rates."""
    return (
        cell["kind"] == "controlled"
        and cell["easy_labels_right"] == 1.0
        and cell["hard_source"] == "writers"
        and cell["epochs"] == 1
        and is_tuned(cell)
    )
