"""How far the labels can be trusted, by margin: agreement of second metrics with them, with confidence bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mixdpo.common.statistics import monotone_band, share_bounds

LEVEL: Final = 0.95
"""Confidence: of the signals' agreement all together, of the bins' all together, and of the ties'."""
MOST_BINS: Final = 20
LEAST_PAIRS: Final = 100
"""Pairs of a bin, at least."""


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


def bin_edges(margin: np.ndarray, start: int) -> np.ndarray:
    """Cut sorted margins from index `start` on into at most `MOST_BINS` bins that never divide equal margins.

    Returns:
        Increasing indices, int64: bin b is margin[edges[b]:edges[b + 1]]. Each has `LEAST_PAIRS` pairs or more, if
        there are as many.
    """
    size = max(LEAST_PAIRS, -(-(len(margin) - start) // MOST_BINS))
    ends = np.append(np.flatnonzero(np.diff(margin) > 0) + 1, len(margin))
    edges = [start]
    while len(margin) - edges[-1] >= size:
        end = int(ends[np.searchsorted(ends, edges[-1] + size)])
        edges.append(end if len(margin) - end >= size else len(margin))
    return np.array(edges if len(edges) > 1 else [start, len(margin)], dtype=np.int64)


def easiest_third(edges: np.ndarray) -> int:
    """Return the index from which whole bins hold a third of the pairs or more, as few as possible."""
    third = (edges[-1] - edges[0]) / 3
    return int(edges[:-1][edges[-1] - edges[:-1] >= third][-1])


def judge_signals(sides: Mapping[str, np.ndarray], easiest: int) -> list[Signal]:
    """Measure each signal's agreement with the labels of the pairs from index `easiest` on, and weigh it.

    Args:
        sides: by signal, float64 of shape (N,): 1 where it agrees with the label, -1 where not, 0 for no opinion.
        easiest: from `easiest_third`.
    """
    shares = {name: float((side[easiest:].mean() + 1) / 2) for name, side in sides.items()}
    bounds, weights = {}, {}
    for name, share in shares.items():
        pairs = len(sides[name]) - easiest
        low, high = share_bounds(share * pairs, pairs, (1 - LEVEL) / (2 * len(shares)))
        bounds[name] = (float(low), float(high))
        # Independent votes are best weighted by their log-odds, which near a half are 4 (share - 1/2).
        weights[name] = 2 * share - 1 if low > 0.5 or high < 0.5 else 0.0
    total = sum(map(abs, weights.values())) or 1.0
    return [
        Signal(metric=name, agreement=share, low=bounds[name][0], high=bounds[name][1], weight=weights[name] / total)
        for name, share in shares.items()
    ]


def margin_bins(
    margin: np.ndarray,
    ties: int,
    edges: np.ndarray,
    sides: Mapping[str, np.ndarray],
    votes: np.ndarray | None = None,
    required: float | None = None,
) -> list[MarginBin]:
    """Return the bins of the curve: the first `ties` of the sorted pairs, if there are any, then those of `edges`.

    Without `votes` (float64 in [0, 1], shape (N,)) no bin has an agreement.
    """
    starts = ([0] if ties else []) + edges[:-1].tolist()
    ends = [*starts[1:], len(margin)]
    bounds = [(None, None, None)] * len(starts) if votes is None else _bounds(votes, ties, edges)
    return [
        MarginBin(
            margin_min=float(margin[start]),
            margin_max=float(margin[end - 1]),
            pairs=end - start,
            agreement=agreement,
            low=low,
            high=high,
            by_signal=[float((side[start:end].mean() + 1) / 2) for side in sides.values()],
            verdict="tie" if end <= ties else _verdict(low, high, required),
        )
        for start, end, (agreement, low, high) in zip(starts, ends, bounds, strict=True)
    ]


def hardest_are_under(required: float, votes: np.ndarray, edges: np.ndarray) -> bool:
    """Whether the hardest bins, some number of them taken together, agree less than `required` beyond doubt.

    Were every label trusted, this would be found with a probability of at most `1 - LEVEL`: every number of bins gets
    its share of it (Bonferroni). One question has more power than the band, which answers one for every bin.
    """
    agreed_B, pairs_B = _counts(votes, edges)
    _, high_B = share_bounds(np.cumsum(agreed_B), np.cumsum(pairs_B), (1 - LEVEL) / len(pairs_B))
    return bool((high_B < required).any())


def _verdict(low: float | None, high: float | None, required: float | None) -> str:
    if low is None or high is None or required is None:
        return "undecided"
    return "not trusted" if high < required else "trusted" if low >= required else "undecided"


def _bounds(votes: np.ndarray, ties: int, edges: np.ndarray) -> list[tuple[float, float, float]]:
    """Return (agreement, low, high) of the ties, if there are any, and of every bin."""
    agreed_B, pairs_B = _counts(votes, edges)
    low_B, high_B = monotone_band(agreed_B, pairs_B, LEVEL)
    bounds = list(zip((agreed_B / pairs_B).tolist(), low_B.tolist(), high_B.tolist(), strict=True))
    if ties:
        share, pairs = float(votes[:ties].mean()), ties * float(pairs_B.sum()) / (len(votes) - ties)
        low, high = share_bounds(share * pairs, pairs, (1 - LEVEL) / 2)
        bounds.insert(0, (share, float(low), float(high)))
    return bounds


def _counts(votes: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return agreements and pairs of every bin as effective counts, float64 of shape (B,).

    Votes of several signals vary less than coins of the same mean; a pair then counts as more than one, by the
    ratio of the two variances (the effective sample size of Korn and Graubard 1998).
    """
    pairs_B = np.diff(edges).astype(np.float64)
    mean_B = np.add.reduceat(votes, edges[:-1]) / pairs_B
    variance = np.add.reduceat(votes**2, edges[:-1]).sum() - (pairs_B * mean_B**2).sum()
    of_coins = (pairs_B * mean_B * (1 - mean_B)).sum()
    effective = of_coins / variance if variance > 1e-9 * len(votes) else 1.0
    return effective * pairs_B * mean_B, effective * pairs_B
