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
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.data.arrays import float_column
from mixdpo.difficulty.metrics import prefers_an_answer
from mixdpo.plan.agreement_curve import (
    LEAST_PAIRS,
    AgreementCurve,
    MarginBin,
    Signal,
    bin_edges,
    easiest_third,
    hardest_are_under,
    judge_signals,
    margin_bins,
)

ONE_SIDED: Final = 0.01
"""A metric that prefers the same side in all but this share of the pairs says nothing of a single pair's label: it is
a distance, or it is what made the label."""


@dataclass(kw_only=True, frozen=True)
class AutoSettings:
    """Settings of `threshold: auto`, part of a plan's."""

    signals: list[str] | None = field(
        default=None,
        metadata={"help": "auto: metrics that judge the labels; null: all other margin/* columns that take sides"},
    )
    trust: float = field(
        default=0.5,
        metadata={
            "help": "auto: share of the agreement with the easiest third, beyond chance, that a label must keep"
        },
    )
    min_share: float = field(default=0.0, metadata={"help": "auto: smallest share of the pairs to route"})
    max_share: float = field(default=0.5, metadata={"help": "auto: largest share of the pairs to route, ties apart"})


def check_auto(settings: AutoSettings, threshold: Any) -> None:
    """Raise `InputError` for values out of range, or set without `threshold: auto`."""
    for f in fields(AutoSettings):
        if threshold != "auto" and getattr(settings, f.name) != f.default:
            raise InputError(f"{f.name} belongs to threshold auto, and threshold is {threshold!r}")
    if not 0 < settings.trust < 1:
        raise InputError(f"trust is {settings.trust!r}; it is a share between 0 and 1")
    if not 0 <= settings.min_share <= settings.max_share < 1:
        raise InputError(
            f"min_share is {settings.min_share!r} and max_share {settings.max_share!r}; "
            "they are shares with 0 <= min_share <= max_share < 1"
        )


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
    ties = _ties(margin)
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
                f"threshold auto has nothing to judge the labels by: {_no_ties(margin)}, and {problem}",
                hint="add one such as nll_gap with `mixdpo score`, or give a margin or {hardest: f} as threshold",
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
        sentences.append(f"No margin is shown to have labels under the required agreement of {required:.1%}.")
    if cut:
        sentences.append(
            f"Under a margin of {margin[cut]:.4g} the signals agree with {votes[:cut].mean():.1%} of the labels, "
            f"from there on with {votes[cut:].mean():.1%}; {required:.1%} is required."
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
        reason=" ".join(sentences + _cautions(margin, bins)),
    )


def _ties(margin: np.ndarray) -> int:
    """Return how many of the sorted margins are ties: 0, or (rarely) less, by the metric that made the label.

    A metric with more negative margins than that did not make the label, and its 0 is a margin like others.
    """
    negative = int(np.searchsorted(margin, 0.0, side="left"))
    return int(np.searchsorted(margin, 0.0, side="right")) if negative <= ONE_SIDED * len(margin) else 0


def _no_ties(margin: np.ndarray) -> str:
    zero = np.count_nonzero(margin == 0)
    if not zero:
        return "no pair is tied"
    return f"margins of 0 ({zero:,}) are no ties where more than {ONE_SIDED:.0%} are negative"


def _allowed(cuts: np.ndarray, ties: int, pairs: int, settings: AutoSettings) -> np.ndarray:
    """Return those numbers of pairs, out of `cuts` (ascending), that may be routed."""
    least, most = max(ties, settings.min_share * pairs), max(ties, settings.max_share * pairs)
    allowed = cuts[(cuts >= least) & (cuts <= most)]
    # Where a single margin holds more pairs than the two shares leave room for, the largest share wins.
    return allowed if len(allowed) else cuts[cuts <= most][-1:]


def _cautions(margin: np.ndarray, bins: Sequence[MarginBin]) -> list[str]:
    cautions = []
    if any(item.low is not None and item.high is not None and item.low > item.high for item in bins):
        cautions.append("Agreement falls somewhere as the margin grows, so no threshold describes these labels well.")
    if takes_sides(margin):
        cautions.append("The plan's metric takes sides itself: what it shares with a signal passes for agreement.")
    return cautions


def _nothing_to_judge_by(judged: Sequence[Signal], signals: Mapping[str, np.ndarray]) -> str:
    if not signals:
        return "no other margin/* column prefers now the chosen and now the rejected answer"
    if not judged:
        return f"there are fewer than {2 * LEAST_PAIRS} pairs, or too few different margins"
    names = ", ".join(f"{signal.metric} {signal.agreement:.1%}" for signal in judged)
    return f"no signal's agreement with the labels of the easiest third can be told from chance ({names})"
