"""Advice by margin: what was measured of pairs, which route they take, and what it is worth.

`advice_rule.py` gives it, `advice_measured.py` measures, `advice_words.py` puts it into sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from mixdpo.common.notebook import notebook_html
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


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do with all pairs.

    Attributes:
        parts: hardest first.
        hard_share: share of the pairs that are hard.
        effect: of all routes together, in per cent of what a preference loss on all pairs gains over the start.
        wrong_labels: among the others, if they matter.
        measurements: that may change the advice, the most useful first.
        least: what matters, in per cent of that gain.
        worlds: that it holds in.
        label_source: where `right` comes from: `column`, `agreement`, or None.
    """

    parts: Sequence[PartAdvice]
    hard_share: float
    effect: Range
    wrong_labels: WrongLabels | None
    measurements: Sequence[Measurement]
    least: float
    worlds: Sequence[str]
    label_source: str | None = None

    def __repr__(self) -> str:
        return f"<Advice of {len(self.parts)} parts: {', '.join(sorted(self.routes))}>"

    def _repr_html_(self) -> str:
        """Show what to do by margin, and what that is worth, in a notebook."""
        from mixdpo.plan.advice_words import advice_table, sentences  # which are built on this module

        said = sentences(self)
        wrong = [] if said["wrong_labels"] is None else [said["wrong_labels"]]
        table = advice_table("by margin, hardest pairs first", self)
        return notebook_html("Advice on hard pairs", *wrong, table, said["total"], *said["unknown"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON; a bound that there is none of is null."""
        values: dict[str, Any] = _finite(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Advice:
        """Make advice from what `to_dict` made of one."""
        wrong = values["wrong_labels"]
        return cls(
            **{
                **values,
                "parts": [_part_advice(one) for one in values["parts"]],
                "effect": _range(values["effect"]),
                "wrong_labels": None if wrong is None else WrongLabels(**{**wrong, "cost": _range(wrong["cost"])}),
                "measurements": [Measurement(**one) for one in values["measurements"]],
            }
        )

    @property
    def routes(self) -> set[str]:
        """The routes of all parts."""
        return {one.route for one in self.parts}


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _range(values: Mapping[str, float | None] | None) -> Any:
    if values is None:
        return None
    low, high = values["low"], values["high"]
    return Range(
        estimate=values["estimate"], low=-math.inf if low is None else low, high=math.inf if high is None else high
    )


def _part_advice(values: Mapping[str, Any]) -> PartAdvice:
    part = {**values["part"], **{name: _range(values["part"][name]) for name in ("right", "surplus")}}
    effects = {one: _range(effect) for one, effect in values["effects"].items()}
    return PartAdvice(**{**values, "part": Part(**part), "effects": effects})
