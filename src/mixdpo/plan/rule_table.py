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
Treatment = Literal["drop", "smoothed", "sft"]
TREATMENTS: Final[tuple[Treatment, ...]] = get_args(Treatment)
"""What can be done with hard pairs beside a preference loss: drop them and spend their updates on the others, smooth
their labels by P, or mix in SFT on their chosen answers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The cells of a world whose hard labels are equally often right, C of them.

    Attributes:
        surplus: ascending, float64 of shape (C,).
        effects: by treatment, float64 of shape (C, 3): estimate, low and high end of its 95 % interval.
    """

    surplus: np.ndarray
    effects: Mapping[Treatment, np.ndarray]

    def at(self, treatment: Treatment, surplus: float) -> np.ndarray:
        """Return an effect between two cells by straight lines, beyond the last one as it is there; shape (3,)."""
        return np.array([np.interp(surplus, self.surplus, values) for values in self.effects[treatment].T])


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What was measured in one world.

    Attributes:
        name: of the world.
        rows: by P, ascending.
        shares: shares of hard pairs, ascending, and how much larger effects are there than at `SHARE`.
    """

    name: str
    rows: Mapping[float, Row]
    shares: Sequence[tuple[float, float]]

    @property
    def fullest(self) -> Row:
        """The row with the most cells."""
        return max(self.rows.values(), key=lambda row: len(row.surplus))

    def effect(self, treatment: Treatment, right: float, surplus: float) -> np.ndarray:
        """Return what a treatment is worth at `SHARE`: estimate, low and high; float64 of shape (3,).

        Args:
            treatment: of hard pairs.
            right: P, the probability that their labels are right; between two rows effects are linear in it.
            surplus: of their chosen answers.
        """
        rows = [self._at(row, treatment, surplus) for row in self.rows.values()]
        return np.array([np.interp(right, list(self.rows), values) for values in np.transpose(rows)])

    def _at(self, row: Row, treatment: Treatment, surplus: float) -> np.ndarray:
        if len(row.surplus) > 1 or row is self.fullest:
            return row.at(treatment, surplus)
        # A single cell says how far its labels move an effect, and nothing of how that changes with the surplus.
        where = float(row.surplus[0])
        moved = row.effects[treatment][0, 0] - self.fullest.at(treatment, where)[0]
        return self.fullest.at(treatment, surplus) + moved

    def factor(self, share: float) -> float:
        """Return how much larger effects are with a share of hard pairs than with `SHARE`."""
        shares, factors = zip((0.0, 0.0), *self.shares, strict=True)
        if share > shares[-1]:
            return float(factors[-1] * share / shares[-1])
        return float(np.interp(share, shares, factors))


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
        return max(share for world in self.worlds for share, _ in world.shares)


def rule_of(table: Mapping[str, Any]) -> RuleTable:
    """Return what a table of `map_rule.rule_table` holds, as advice reads it.

    Of tuned runs of one epoch on hard pairs by other writers; the other cells are for those who look at the table.
    """
    cells = [
        cell
        for cell in table["cells"]
        if (cell["epochs"], cell["learning_rate"], cell["hard_source"]) == (1, None, "writers")
    ]
    names = list(dict.fromkeys(cell["world"] for cell in cells if cell["hard_share"] == SHARE))
    by_share = {name: _factors([cell for cell in cells if cell["world"] == name]) for name in names}
    known = [factors for factors in by_share.values() if len(factors) > 1]
    others = known[0] if len(known) == 1 else _mean_factors(known) if known else [(SHARE, 1.0)]
    return RuleTable(
        worlds=[
            World(
                name=name,
                rows=_rows([cell for cell in cells if cell["world"] == name and cell["hard_share"] == SHARE]),
                shares=by_share[name] if len(by_share[name]) > 1 else others,
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


def _factors(cells: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return shares with the factor of effects there, fitted to all treatments by least squares.

    Cells are compared that differ in nothing else, so large effects decide, and those near zero do not.
    """
    factors = {SHARE: 1.0}
    for share in sorted({cell["hard_share"] for cell in cells} - {SHARE}):
        here, there = [], []
        for cell in cells:
            twin = next((one for one in cells if _is_twin(one, cell) and cell["hard_share"] == share), None)
            if twin is not None:
                here += [twin["effects"][treatment][0] for treatment in TREATMENTS]
                there += [cell["effects"][treatment][0] for treatment in TREATMENTS]
        if np.any(here):
            factors[share] = float(np.dot(here, there) / np.dot(here, here))
    return sorted(factors.items())


def _is_twin(one: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    same = one["right"] == cell["right"] and one["hard_quality"] == cell["hard_quality"]
    return bool(same and one["hard_share"] == SHARE)


def _mean_factors(known: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    shares = sorted({share for factors in known for share, _ in factors})
    means = {
        share: float(np.mean([dict(factors)[share] for factors in known if share in dict(factors)]))
        for share in shares
    }
    return sorted(means.items())
