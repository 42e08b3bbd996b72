"""What treatments of hard pairs are worth in worlds whose rewards are known: a map in small, as data of the package.

`scripts/write_rule_table.py` makes them from a map (see `study/world/map_rule.py`). A treatment's effect is its reward
less that of a preference loss on all pairs, in per cent of what the preference loss gains over the start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, get_args

import numpy as np

VERSION: Final = 1
TABLE_FILE: Final = "rule_table.json"
SHARE: Final = 0.3
"""Share of hard pairs of the cells that differ in labels and quality."""
Treatment = Literal["drop", "smoothed", "sft", "sft_last"]
TREATMENTS: Final[tuple[Treatment, ...]] = get_args(Treatment)
"""What can be done with hard pairs beside a preference loss: drop them and spend their updates on the others, smooth
their labels by P, mix in SFT on their chosen answers, or sort all pairs from easy to hard and let the run end with SFT
on the hard ones, as MixDPO does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The cells of a world whose hard labels are equally often right, C of them.

    Attributes:
        surplus: ascending, float64 of shape (C,).
        effects: by treatment, float64 of shape (C, 3): estimate, low and high end of its 95 % interval.
    """

    surplus: np.ndarray
    effects: Mapping[Treatment, np.ndarray]

    def at(self, treatment: Treatment, surplus: float | np.ndarray) -> np.ndarray:
        """Return effects between cells by straight lines, beyond the last one as they are there; shape (..., 3)."""
        return np.stack([np.interp(surplus, self.surplus, values) for values in self.effects[treatment].T], axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What was measured in one world.

    Attributes:
        name: of the world.
        rows: by P, ascending.
        smaller: shares of hard pairs up to `SHARE`, ascending, and by treatment what part its effect is there of that
            at `SHARE`.
        larger: shares from `SHARE` on, ascending, and by treatment how much more its effect is there.
    """

    name: str
    rows: Mapping[float, Row]
    smaller: Sequence[tuple[float, Mapping[Treatment, float]]]
    larger: Sequence[tuple[float, Mapping[Treatment, float]]]

    @property
    def fullest(self) -> Row:
        """The row with the most cells."""
        return max(self.rows.values(), key=lambda row: len(row.surplus))

    def effects(
        self, treatment: Treatment, rights: np.ndarray, surpluses: np.ndarray, share: float = SHARE
    ) -> np.ndarray:
        """Return what a treatment is worth at every right with every surplus: estimate, low and high.

        Args:
            treatment: of hard pairs.
            rights: P, the probability that their labels are right, shape (R,); between two rows effects are linear
                in it.
            surpluses: of their chosen answers, shape (S,).
            share: of hard pairs. What part of an effect few of them have, and what more of them add, depends on the
                treatment, and is taken to be the same whatever their labels and answers are.

        Returns:
            float64 of shape (R * S, 3), all surpluses of the first right first.
        """
        rows = np.stack([self._at(row, treatment, surpluses).ravel() for row in self.rows.values()])
        known = list(self.rows)
        effects = np.stack([np.interp(rights, known, values) for values in rows.T], axis=-1).reshape(-1, 3)
        return _at_share(self.smaller, treatment, share) * effects + _at_share(self.larger, treatment, share)

    def _at(self, row: Row, treatment: Treatment, surplus: np.ndarray) -> np.ndarray:
        if len(row.surplus) > 1 or row is self.fullest:
            return row.at(treatment, surplus)
        # A single cell says how far its labels move an effect, and nothing of how that changes with the surplus.
        where = float(row.surplus[0])
        moved = row.effects[treatment][0, 0] - self.fullest.at(treatment, where)[0]
        return self.fullest.at(treatment, surplus) + moved


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleTable:
    """What advice rests on.

    Attributes:
        worlds: all that were measured.
        wrong_labels: of each world and kind of pair, `easy` or `hard`, what a preference loss loses for every per cent
            of all pairs whose label is wrong: (estimate, low, high), in per cent of its gain.
        map: name, seeds, and pairs of a run.
    """

    worlds: Sequence[World]
    wrong_labels: Sequence[tuple[str, str, tuple[float, float, float]]]
    map: Mapping[str, Any]

    @property
    def surpluses(self) -> tuple[float, float]:
        """The lowest and the highest surplus of any cell."""
        rows = [row.surplus for world in self.worlds for row in world.rows.values()]
        return float(min(row.min() for row in rows)), float(max(row.max() for row in rows))

    @property
    def rights(self) -> tuple[float, float]:
        """The lowest and the highest P of any cell."""
        every = [right for world in self.worlds for right in world.rows]
        return min(every), max(every)

    @property
    def largest_share(self) -> float:
        """The largest share of hard pairs of any cell."""
        return max(share for world in self.worlds for share, _ in world.larger)


def cells_read(table: Mapping[str, Any]) -> list[_Cell]:
    """Return the cells that advice is read from: tuned runs of one epoch on hard pairs by other writers.

    The others of a table are for those who look at it, and to hold the advice to.
    """
    return [
        cell
        for cell in table["cells"]
        if (cell["epochs"], cell["learning_rate"], cell["hard_source"]) == (1, None, "writers")
    ]


def rule_of(table: Mapping[str, Any]) -> RuleTable:
    """Return what a table of `map_rule.rule_table` holds, as advice reads it."""
    cells = cells_read(table)
    names = list(dict.fromkeys(cell["world"] for cell in cells if cell["hard_share"] == SHARE))
    twins = {name: _twins([cell for cell in cells if cell["world"] == name]) for name in names}
    of_all = [pair for of_world in twins.values() for pair in of_world]
    return RuleTable(
        worlds=[
            World(
                name=name,
                rows=_rows([cell for cell in cells if cell["world"] == name and cell["hard_share"] == SHARE]),
                smaller=_parts(twins[name]) or _parts(of_all) or [(0.0, _all(0.0)), (SHARE, _all(1.0))],
                larger=_additions(twins[name]) or _additions(of_all) or [(SHARE, _all(0.0))],
            )
            for name in names
        ],
        wrong_labels=[(one["world"], one["kind"], tuple(one["cost"])) for one in table["wrong_labels"]],
        map=table["map"],
    )


@cache
def shipped_rule() -> RuleTable:
    """Return the table of the package."""
    return rule_of(json.loads(files("mixdpo.plan").joinpath(TABLE_FILE).read_text(encoding="utf-8")))


def _rows(cells: Sequence[Mapping[str, Any]]) -> dict[float, Row]:
    rows = {}
    for right in sorted({cell["right"] for cell in cells}):
        row = sorted((cell for cell in cells if cell["right"] == right), key=lambda cell: float(cell["surplus"]))
        rows[right] = Row(
            surplus=np.array([cell["surplus"] for cell in row], dtype=np.float64),
            effects={one: np.array([cell["effects"][one] for cell in row], dtype=np.float64) for one in TREATMENTS},
        )
    return rows


_Cell = Mapping[str, Any]
_AtShare = tuple[float, Mapping[Treatment, float]]
"""A share of hard pairs, and a number of every treatment."""


def _twins(cells: Sequence[_Cell]) -> list[tuple[_Cell, _Cell]]:
    """Return the cells of another share of hard pairs, each behind the one of `SHARE` that differs in nothing else."""
    return [
        (one, other)
        for one in cells for other in cells
        if one["hard_share"] == SHARE != other["hard_share"]
        and (one["right"], one["hard_quality"]) == (other["right"], other["hard_quality"])
    ]  # fmt: skip


def _parts(twins: Sequence[tuple[_Cell, _Cell]]) -> list[_AtShare]:
    """Return no hard pairs, the smaller shares and `SHARE`, with the part that every treatment's effect is there.

    Fitted by least squares over cells, so that large effects decide and those near zero do not; from 0 to 1. An order
    of all pairs keeps more of its effect than what hard pairs alone have to give.
    """
    found = []
    for share in sorted({other["hard_share"] for _, other in twins if other["hard_share"] < SHARE}):
        pairs = [(_effects(one), _effects(other)) for one, other in twins if other["hard_share"] == share]
        here, there = (np.array(values) for values in zip(*pairs, strict=True))
        square = (here * here).sum(axis=0)
        part = np.where(square > 0, (here * there).sum(axis=0) / np.where(square > 0, square, 1.0), share / SHARE)
        found.append((share, dict(zip(TREATMENTS, np.clip(part, 0, 1).tolist(), strict=True))))
    return [(0.0, _all(0.0)), *found, (SHARE, _all(1.0))] if found else []


def _additions(twins: Sequence[tuple[_Cell, _Cell]]) -> list[_AtShare]:
    """Return `SHARE` and the larger shares, with what every treatment's effect is more there than at `SHARE`."""
    found = []
    for share in sorted({other["hard_share"] for _, other in twins if other["hard_share"] > SHARE}):
        more = np.mean(
            [_effects(other) - _effects(one) for one, other in twins if other["hard_share"] == share], axis=0
        )
        found.append((share, dict(zip(TREATMENTS, more.tolist(), strict=True))))
    return [(SHARE, _all(0.0)), *found] if found else []


def _all(value: float) -> dict[Treatment, float]:
    return dict.fromkeys(TREATMENTS, value)


def _at_share(known: Sequence[_AtShare], treatment: Treatment, share: float) -> float:
    shares, by_treatment = zip(*known, strict=True)
    return float(np.interp(share, shares, [values[treatment] for values in by_treatment]))


def _effects(cell: _Cell) -> np.ndarray:
    """Return the estimates of all treatments; float64, one of each."""
    return np.array([cell["effects"][treatment][0] for treatment in TREATMENTS])
