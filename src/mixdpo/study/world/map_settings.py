"""What a map consists of: worlds, cells of pairs, arms, seeds, and how arms are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.study.world.pairs import Cell, NaturalCell

METRIC: Final = "world"
"""The metric whose margins plans of a map read: `margin/world`."""


@dataclass(frozen=True, kw_only=True)
class ArmOfMap:
    """A plan and settings of training.

    Attributes:
        plan: its threshold is filled in with the cell's share of hard pairs where it is `cell`.
        train: keys of `MixDPOConfig` but for learning rate, beta and the step's size.
    """

    plan: PlanSettings
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CellOfMap:
    """Pairs, and how long and where they are trained.

    Attributes:
        pairs: what they are like.
        epochs: over the pairs.
        tuned_on: the cell whose tuned settings its arms take; its own name where it is tuned itself.
        learning_rate: one for all arms instead of tuned ones, for cells of weak training.
        arms: names of those that are run; empty for all.
    """

    pairs: Cell | NaturalCell
    epochs: int = 1
    tuned_on: str
    learning_rate: float | None = None
    arms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """A map of one world.

    Attributes:
        world: key of `WORLDS`.
        pairs: training pairs of a run.
        batch_size: pairs of a step.
        arms: by name.
        cells: by name.
        seeds: of the final runs; seed s starts from base s modulo the number of bases.
        tuning_seeds: others.
        learning_rates, betas: the grid of tuning.
    """

    world: str
    pairs: int = 1500
    batch_size: int = 32
    arms: Mapping[str, ArmOfMap]
    cells: Mapping[str, CellOfMap]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    betas: tuple[float, ...]
