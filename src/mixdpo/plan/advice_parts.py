"""What advice is made of: what was measured of pairs by margin, the route they take, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mixdpo.plan.rule_table import Treatment

AdvisedRoute = Literal["preference", Treatment]
Known = Literal["both", "start", "trained", "none"]
Unknown = Literal["quality", "labels"]
POINTS: Final = 9
"""Values that stand for a range of which nothing more is known."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number between two bounds; `estimate` is None where nothing is known but these."""

    estimate: float | None
    low: float
    high: float

    def points(self) -> np.ndarray:
        """Return values to evaluate at: the estimate, or several over the range; float64 of shape (n,)."""
        return np.array([self.estimate]) if self.estimate is not None else np.linspace(self.low, self.high, POINTS)

    def within(self, low: float, high: float) -> Range:
        """Return the range cut to bounds."""
        ends = np.clip([self.low, self.high], low, high)
        estimate = None if self.estimate is None else float(np.clip(self.estimate, low, high))
        return Range(estimate=estimate, low=float(ends[0]), high=float(ends[1]))


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was measured of the pairs of neighbouring margins.

    Attributes:
        margin_min, margin_max: smallest and largest margin.
        pairs: how many; `share` of all.
        relative_margin: their mean margin, where that of the easiest third counts as 1.
        right: probability that their labels are right; None if nothing says it.
        surplus: of their chosen answers over the policy that the other pairs give, in units of what that gained over
            the start: 0 = as good as that policy's answers, -1 = as good as the start's; None if nothing says it.
        policies: which of the two policies their answers are known to be compared with.
    """

    margin_min: float
    margin_max: float
    pairs: int
    share: float
    relative_margin: float
    right: Range | None = None
    surplus: Range | None = None
    policies: Known = "none"


@dataclass(frozen=True, kw_only=True)
class PartAdvice:
    """What to do with a part.

    Attributes:
        part: what was measured.
        is_hard: whether the map speaks of such pairs; the others keep the preference loss.
        route: the treatment to take, or `preference`.
        effects: by treatment what it adds for this part alone, in per cent of what a preference loss on all pairs
            gains over the start; empty unless the part is hard.
        by_world: the same by treatment and world, estimates alone.
        harms: by treatment the worlds in which it may lose as much as matters.
        hardly: whether no treatment gains as much as matters, in the mean over worlds.
        beyond: whether P or the surplus lie beyond all that was measured, so that the nearest cells speak for them.
    """

    part: Part
    is_hard: bool
    route: AdvisedRoute
    effects: Mapping[Treatment, Range]
    by_world: Mapping[Treatment, Mapping[str, float]]
    harms: Mapping[Treatment, Sequence[str]]
    hardly: bool
    beyond: bool

    @property
    def effect(self) -> Range | None:
        """That of the route; None for `preference`."""
        return None if self.route == "preference" else self.effects[self.route]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Something to measure that may change the advice.

    Attributes:
        of: `quality` against both policies, or `labels` by a second rater.
        gain: the most that knowing it could add, in per cent of what a preference loss gains.
        pairs: of which it is not known.
    """

    of: Unknown
    gain: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class WrongLabels:
    """Wrong labels among the pairs that are not hard, where they cost most.

    Attributes:
        share: of all pairs, that have one.
        pairs: how many that are.
        cost: what they take, in per cent of what a preference loss gains; None if the map does not say it.
    """

    share: float
    pairs: int
    cost: Range | None
