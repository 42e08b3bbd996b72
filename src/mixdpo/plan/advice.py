"""Advice by margin: what was measured of pairs, which route they take, and what it is worth.

`advice_rule.py` gives it, `advice_measured.py` measures, `advice_words.py` puts it into sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixdpo.common.notebook import notebook_html
from mixdpo.plan.advice_parts import Measurement, Part, PartAdvice, Range, WrongLabels
from mixdpo.plan.advice_words import advice_table, sentences


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
