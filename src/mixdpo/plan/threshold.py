"""`threshold: auto`: the margin under which the data themselves show that their labels are not to be trusted.

Other metrics of the same pairs, the *signals*, say by their sign which answer they prefer. Exchanging chosen and
rejected negates a signal; so where the label is a coin flip, a signal agrees with it half the time, whatever its
taste (longer answers, say), and needs no centring. Where a signal agrees otherwise, the label carries information.

    vote v      weighted share of the signals that agree with the label of a pair, in [0, 1]; a tie counts half
    attained    mean vote of the easiest third
    required    1/2 + trust (attained - 1/2)
    threshold   the cut whose prefix of smallest margins has the lowest sum of (v - required)

That cut is where the isotonic regression of the votes on the margin crosses `required` (the switch relation,
Groeneboom 1985). It is taken only if the hardest pairs are shown to agree less than `required`, by confidence bounds;
else nothing but ties is routed. `docs/threshold.md` gives the reasons and the limits.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import monotone_band, share_bounds
from mixdpo.common.tables import percent_text
from mixdpo.data.arrays import float_column
from mixdpo.difficulty.metrics import prefers_an_answer
from mixdpo.plan.agreement_curve import AgreementCurve, MarginBin, Signal
from mixdpo.plan.plan_settings import AutoSettings

if TYPE_CHECKING:
    from datasets import Dataset

LEVEL: Final = 0.95
"""Confidence: of the signals' agreement all together, of the bins' all together, and of the ties'."""
MOST_BINS: Final = 20
LEAST_PAIRS: Final = 100
"""Pairs of a bin, at least."""
ONE_SIDED: Final = 0.01
"""A metric that prefers the same side in all but this share of the pairs says nothing of a single pair's label: it is
a distance, or it is what made the label."""


def takes_sides(values: np.ndarray) -> bool:
    """Whether a metric prefers now one answer of a pair and now the other; `values` has shape (N,)."""
    return bool(min(np.mean(values < 0), np.mean(values > 0)) > ONE_SIDED)


def judges_labels(metric: str, values: np.ndarray) -> bool:
    """Whether the sign of a metric's margins is an opinion on the labels; `values` has shape (N,)."""
    return prefers_an_answer(metric) and takes_sides(values)


def find_signals(dataset: Dataset, metric: str, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Return the margins of the second metrics, float64 of shape (N,), NaN where one is missing.

    Args:
        dataset: pairs with `margin/*` columns.
        metric: the plan's own metric, which is never a signal.
        names: the metrics to take; None: every other one that takes sides and is negated by exchanging the answers.

    Raises:
        InputError: a named metric is missing, is the plan's own, or takes no sides.
    """
    present = [name.removeprefix("margin/") for name in dataset.column_names if name.startswith("margin/")]
    others = [name for name in present if name != metric]
    if names is None:
        found = {name: float_column(dataset, f"margin/{name}") for name in others}
        return {name: values for name, values in found.items() if judges_labels(name, values)}
    signals = {}
    for name in names:
        if name == metric:
            raise InputError(
                f"the signal {name!r} is the plan's own metric", hint="name other metrics in plan.signals"
            )
        if name not in others:
            near = difflib.get_close_matches(name, others, n=1)
            hint = f"did you mean {near[0]}?" if near else f"add it with `mixdpo score --metric {name}`"
            raise InputError("there is no such column for plan.signals", column=f"margin/{name}", hint=hint)
        signals[name] = float_column(dataset, f"margin/{name}")
        if not takes_sides(signals[name]):
            raise InputError(
                "a signal must prefer now the chosen and now the rejected answer, and this column has only one sign",
                column=f"margin/{name}",
                hint="name metrics such as nll_gap or reward_model in plan.signals",
            )
    return signals


def auto_threshold(margin: np.ndarray, signals: Mapping[str, np.ndarray], settings: AutoSettings) -> AgreementCurve:
    """Find the margin under which labels are not to be trusted.

    Args:
        margin: float64 of shape (N,), finite, larger = easier.
        signals: from `find_signals`: positive where they prefer the chosen answer; NaN and 0 are no opinion.
        settings: what a trusted label is, and how many pairs may be routed.

    Raises:
        InputError: nothing in the data speaks for or against a label.
    """
    order = np.argsort(margin, kind="stable")
    margin = margin[order]
    ties = count_ties(margin)
    if ties == len(margin):
        raise InputError("every pair is tied, so no margin divides them", hint="use another plan.metric")
    edges = bin_edges(margin, ties)
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(margin) > 0) + 1])
    allowed = _allowed(cuts, ties, len(margin), settings)
    sides = {name: np.nan_to_num(np.sign(values[order])) for name, values in signals.items()}
    judged = judge_signals(sides, easiest_third(edges)) if len(edges) > 2 else []
    if not any(signal.weight for signal in judged):
        problem = _nothing_to_judge_by(judged, signals)
        if ties == 0:
            raise InputError(
                f"there is nothing to judge the labels by: {_no_ties(margin)}, and {problem}",
                hint="add one such as nll_gap with `mixdpo score`, or do without threshold auto and "
                "label_probability agreement",
            )
        return AgreementCurve(
            bins=margin_bins(margin, ties, edges, sides if judged else {}),
            signals=judged,
            attained=None,
            required=None,
            threshold=float(margin[allowed[0]]),
            routed=int(allowed[0]),
            reason=f"Nothing but the {ties:,} ties speaks against a label: {problem}.",
        )

    votes = 0.5 + 0.5 * np.sum([signal.weight * sides[signal.metric] for signal in judged], axis=0)
    attained = float(votes[easiest_third(edges) :].mean())
    required = 0.5 + settings.trust * (attained - 0.5)
    bins = margin_bins(margin, ties, edges, sides, votes, required)
    shown = hardest_are_under(required, votes, edges)
    total = np.concatenate([[0.0], np.cumsum(votes - required)])
    cut = int(allowed[np.argmin(total[allowed])] if shown else allowed[0])
    sentences = []
    if not shown:
        sentences.append(
            f"No margin is shown to have labels under the required agreement of {percent_text(required)}."
        )
    if cut:
        sentences.append(
            f"Under a margin of {margin[cut]:.4g} the signals agree with {percent_text(votes[:cut].mean())} "
            f"of the labels, from there on with {percent_text(votes[cut:].mean())}; "
            f"{percent_text(required)} is required."
        )
    if shown and total[cuts[cuts >= ties]].min() < total[cut]:
        sentences.append("The shares that may be routed, not the agreement, set the threshold.")
    return AgreementCurve(
        bins=bins,
        signals=judged,
        attained=attained,
        required=required,
        threshold=float(margin[cut]) if cut else None,
        routed=cut,
        reason=" ".join(sentences + cautions(margin, bins)),
    )


def count_ties(margin: np.ndarray) -> int:
    """Return how many of the sorted margins are ties: 0, or (rarely) less, by the metric that made the label.

    A metric with more negative margins than that did not make the label, and its 0 is a margin like others.
    """
    negative = int(np.searchsorted(margin, 0.0, side="left"))
    return int(np.searchsorted(margin, 0.0, side="right")) if negative <= ONE_SIDED * len(margin) else 0


def _no_ties(margin: np.ndarray) -> str:
    zero = np.count_nonzero(margin == 0)
    if not zero:
        return "no pair is tied"
    return f"margins of 0 ({zero:,}) are no ties where more than {percent_text(ONE_SIDED, 0)} are negative"


def _allowed(cuts: np.ndarray, ties: int, pairs: int, settings: AutoSettings) -> np.ndarray:
    """Return those numbers of pairs, out of `cuts` (ascending), that may be routed."""
    least, most = max(ties, settings.min_share * pairs), max(ties, settings.max_share * pairs)
    allowed = cuts[(cuts >= least) & (cuts <= most)]
    # Where a single margin holds more pairs than the two shares leave room for, the largest share wins.
    return allowed if len(allowed) else cuts[cuts <= most][-1:]


def cautions(margin: np.ndarray, bins: Sequence[MarginBin]) -> list[str]:
    """Return sentences on what makes the agreement by margin doubtful; `margin` has shape (N,)."""
    found = []
    if any(item.low is not None and item.high is not None and item.low > item.high for item in bins):
        found.append("Agreement falls somewhere as the margin grows, so no threshold describes these labels well.")
    if takes_sides(margin):
        found.append("The plan's metric takes sides itself: what it shares with a signal passes for agreement.")
    return found


def _nothing_to_judge_by(judged: Sequence[Signal], signals: Mapping[str, np.ndarray]) -> str:
    if not signals:
        return "no other margin/* column prefers now the chosen and now the rejected answer"
    if not judged:
        return f"there are fewer than {2 * LEAST_PAIRS} pairs, or too few different margins"
    names = ", ".join(f"{signal.metric} {percent_text(signal.agreement)}" for signal in judged)
    return f"no signal's agreement with the labels of the easiest third can be told from chance ({names})"


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
