"""What `threshold: auto` was read from: agreement of second metrics with the labels by margin, with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A second metric: how often its sign agrees with the label of the easiest third, and its part in the vote.

    Attributes:
        metric: its name.
        agreement: share of pairs, where a tie of the signal counts half; `low` and `high` bound it.
        weight: in [-1, 1]; negative: it agrees less than half the time and votes reversed; 0: left out, since
            its agreement cannot be told from chance.
    """

    metric: str
    agreement: float
    low: float
    high: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class MarginBin:
    """Pairs of neighbouring margins.

    Attributes:
        margin_min: smallest margin in it; `margin_max` the largest.
        pairs: how many.
        agreement: mean vote of the signals; None without signals. `low` and `high` bound it: ties by themselves,
            the other bins simultaneously, given that agreement does not fall as the margin grows.
        by_signal: each signal's own agreement, in the order of the curve's signals.
        verdict: `tie`, `not trusted` (the band is under `required`), `trusted` (it is not), `undecided`.
    """

    margin_min: float
    margin_max: float
    pairs: int
    agreement: float | None
    low: float | None
    high: float | None
    by_signal: list[float]
    verdict: str


@dataclass(frozen=True, kw_only=True)
class AgreementCurve:
    """Agreement of the signals with the label by margin, and the threshold read from it.

    Attributes:
        bins: hardest first.
        signals: those looked at, used or not.
        attained: mean vote of the easiest third; None without signals.
        required: agreement under which labels are not trusted; None without signals.
        threshold: pairs whose margin is strictly under it are hard; None: no pair is.
        routed: how many that are.
        reason: why, in sentences.
    """

    bins: list[MarginBin]
    signals: list[Signal]
    attained: float | None
    required: float | None
    threshold: float | None
    routed: int
    reason: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AgreementCurve:
        """Make a curve from what `dataclasses.asdict` made of one."""
        bins, signals = [MarginBin(**item) for item in values["bins"]], [Signal(**item) for item in values["signals"]]
        return cls(**{**values, "bins": bins, "signals": signals})
