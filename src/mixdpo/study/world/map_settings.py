"""What a map consists of: worlds, cells of pairs, arms, seeds, and how arms are tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.study.study_settings import ContrastSettings, GridSettings, TuningSettings
from mixdpo.study.world.pairs import Cell, NaturalCell

METRIC: Final = "world"
"""The metric whose margins plans of a map read: `margin/world`."""
START: Final = "start"
"""The name of the base itself among arms."""
ORDERS: Final = 1_000_000
"""What an arm's `order` adds to the seed of its plan, times itself."""
Gate = Literal["quality"]


@dataclass(frozen=True, kw_only=True)
class ArmOfMap:
    """A plan and settings of training.

    Attributes:
        plan: its threshold is filled in with the cell's share of hard pairs.
        train: keys of `MixDPOConfig` that decide the objective; `label_smoothing: mean` is the share of wrong labels.
        beta: values of its own to try, for a loss whose beta is another.
        gate: quality drops the hard pairs whose chosen answer is not better than what a policy trained on the other
            pairs answers, and has the others take their updates.
        order: another number shuffles the same plan otherwise; two arms that differ in nothing else differ by chance.
        note: what it is, for the tables.
    """

    plan: PlanSettings
    train: Mapping[str, Any] = field(default_factory=dict)
    beta: Sequence[float] | None = None
    gate: Gate | None = None
    order: int = 0
    note: str = ""

    def grid(self, tuning: GridSettings) -> GridSettings:
        """Return what the arm tries in a world of that grid."""
        return GridSettings(learning_rate=tuning.learning_rate, beta=list(self.beta or tuning.beta))


@dataclass(frozen=True, kw_only=True)
class CellOfMap:
    """Pairs, and how they are trained.

    Attributes:
        pairs: what they are like.
        epochs: over the pairs.
        learning_rate: one for all arms instead of the tuned ones, for cells of weak training.
        tuned: whether arms are tuned here.
        arms: names of those that are run; empty for all.
    """

    pairs: Cell | NaturalCell
    epochs: int = 1
    learning_rate: float | None = None
    tuned: bool = False
    arms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorldOfMap:
    """The cells of one world by name, the grid that arms are tuned on there, and what a run takes on a free core."""

    cells: Mapping[str, CellOfMap]
    tuning: TuningSettings
    seconds_per_run: float | None = None

    def tuned_cell(self, name: str) -> str:
        """Return the cell whose tuned settings another takes: that of its kind, controlled or natural."""
        kind = type(self.cells[name].pairs)
        return next(other for other, cell in self.cells.items() if cell.tuned and type(cell.pairs) is kind)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """What is drawn against the quality of hard answers less the level of `against`: `arm` less `against`."""

    arm: str = field(metadata={"help": "the arm that trains hard pairs, such as SFT mixed in"})
    against: str = field(metadata={"help": "the arm that leaves them out, at equal updates"})


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """A whole map.

    Attributes:
        name, title: for the report.
        pairs: training pairs of a run.
        batch_size: pairs of a step.
        worlds: by name, keys of `WORLDS`.
        arms: by name.
        baseline: the arm that all others are compared with.
        contrasts: further comparisons, planned before the runs.
        crossing: the comparison of the figure.
        seeds: of the final runs; seed s starts from base s modulo the number of bases.
    """

    name: str
    title: str
    pairs: int
    batch_size: int
    worlds: Mapping[str, WorldOfMap]
    arms: Mapping[str, ArmOfMap]
    baseline: str
    contrasts: Mapping[str, ContrastSettings]
    crossing: Crossing
    seeds: tuple[int, ...]

    def cells(self) -> Iterator[tuple[str, str, CellOfMap]]:
        """Yield world, name and settings of every cell."""
        for world, of_world in self.worlds.items():
            for name, cell in of_world.cells.items():
                yield world, name, cell

    def arms_of(self, cell: CellOfMap) -> tuple[str, ...]:
        """Return the arms that are run in a cell."""
        return cell.arms or tuple(self.arms)
