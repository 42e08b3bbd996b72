"""Advice in sentences: why a route is taken, what the worlds do not agree on, what to mend and what to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mixdpo.common.tables import TextTable, fixed_text, percent_text, range_text, signed_text
from mixdpo.plan.advice_parts import AdvisedRoute, Part, PartAdvice, Range, Unknown, WrongLabels
from mixdpo.plan.rule_table import Treatment

if TYPE_CHECKING:
    from mixdpo.plan.advice import Advice

_DOES: Final[Mapping[AdvisedRoute, str]] = {
    "drop": "Drop these pairs and spend their updates on the others",
    "smoothed": "Smooth their labels by P",
    "sft": "Mix in SFT on their chosen answers",
    "sft_last": "Sort all pairs from easy to hard, and end with SFT on the chosen answers of these",
    "preference": "Leave them in the preference loss",
}
_KNOWN_BY: Final[Mapping[Unknown, str]] = {"quality": "surplus", "labels": "right"}
_NOT_KNOWN: Final[Mapping[Unknown, str]] = {
    "quality": "How good the chosen answers of {pairs:,} hard pairs are is not known",
    "labels": "How many labels of {pairs:,} hard pairs are right is not known",
}
_MEASURE: Final[Mapping[Unknown, str]] = {
    "quality": "rate their answers with those of the start and of a trained policy "
    "(`mixdpo rate PAIRS --against start=MODEL --against trained=MODEL --judge JUDGE`)",
    "labels": "have a second rater or metric judge them (`mixdpo score`, or a column label_probability)",
}
COLUMNS: Final = (
    "P label: probability that a label is right; surplus: how good the chosen answers are, 0 as the trained policy's, "
    "-1 as the start's; % of gain: of what DPO on all pairs gains"
)
"""What the headings of `advice_table` mean."""
_NAMES: Final[Mapping[Treatment, str]] = {
    "drop": "Dropping them",
    "smoothed": "Smoothing by P",
    "sft": "SFT mixed in",
    "sft_last": "SFT at the end of a sorted run",
}


def sentences(advice: Advice) -> dict[str, Any]:
    """Return all that is to be said: `wrong_labels` or None, `parts` (one text each), `total`, `unknown` (a list)."""
    return {
        "wrong_labels": None if advice.wrong_labels is None else wrong_labels_line(advice.wrong_labels),
        "parts": [reason(one, advice.least) for one in advice.parts],
        "total": total_line(advice),
        "unknown": unknown_lines(advice),
    }


def reason(one: PartAdvice, least: float) -> str:
    """Return why a part takes its route, in sentences; nothing for pairs that are not hard."""
    if not one.is_hard:
        return ""
    sentences = [f"{_DOES[one.route]}: {_why(one, least)}."]
    if one.beyond:
        sentences.append(
            "Their labels or answers lie beyond what the map has measured; its nearest cells speak for them."
        )
    for treatment, by_world in one.by_world.items():
        gains, loses = ([name for name, value in by_world.items() if sign * value > 0] for sign in (1, -1))
        if gains and loses and treatment in one.harms:
            sentences.append(
                f"{_NAMES[treatment]} gains in some of the map's worlds ({', '.join(gains)}) and loses in others "
                f"({', '.join(loses)})."
            )
    return " ".join(sentences)


def _why(one: PartAdvice, least: float) -> str:
    if one.hardly:
        return f"it hardly matters, for nothing gains {least:g} % of what DPO does"
    if one.route == "preference":
        return "what would gain in one world harms in another, or for some quality or labels that they may have"
    return _quality(one.part)


def _quality(part: Part) -> str:
    if part.surplus is None:
        return "that harms in no world of the map, however good their answers are, which is not known"
    if part.surplus.estimate is None:
        than, level = ("start's", -1.0) if part.policies == "start" else ("trained policy's", 0.0)
        return f"their chosen answers are {'better' if part.surplus.low >= level else 'worse'} than the {than}"
    clear = "" if part.surplus.low * part.surplus.high > 0 else ", though not clearly"
    better = "better" if part.surplus.estimate > 0 else "worse"
    return f"their chosen answers are {better} than the trained policy's{clear}"


def wrong_labels_line(wrong: WrongLabels) -> str:
    """Return what wrong labels of pairs that are not hard cost."""
    found = f"About {wrong.pairs:,} labels of larger margins are wrong ({percent_text(wrong.share)} of all pairs)"
    cost = "" if wrong.cost is None else f", which costs {percent(wrong.cost, signed=False)} of what DPO gains"
    return f"{found}{cost}: mend these first; `mixdpo audit` lists the likeliest."


def unknown_lines(advice: Advice) -> list[str]:
    """Return what is not known of the hard pairs, what knowing it may add, and how to measure it."""
    lines = []
    for of, field in _KNOWN_BY.items():
        known = [(one.part, getattr(one.part, field)) for one in advice.parts if one.is_hard]
        pairs = sum(part.pairs for part, value in known if value is None or value.estimate is None)
        gain = next((one.gain for one in advice.measurements if one.of == of), None)
        if pairs and gain is None:
            lines.append(f"{_NOT_KNOWN[of].format(pairs=pairs)}; measuring it would not change the advice.")
        elif pairs:
            lines.append(
                f"{_NOT_KNOWN[of].format(pairs=pairs)}; measuring it may add up to {gain:.0f} % of what DPO "
                f"gains: {_MEASURE[of]}."
            )
    return lines


def total_line(advice: Advice) -> str:
    """Return what all routes together are worth."""
    if advice.hard_share == 0:
        return "No pairs are hard: a preference loss on all of them is what the map supports."
    hard = f"{percent_text(advice.hard_share, 0)} of the pairs are hard"
    if advice.routes == {"preference"}:
        return f"{hard}, and no route that harms in no world gains {advice.least:g} % of what DPO does."
    return f"{hard}; their routes together are expected to add {percent(advice.effect)} of what DPO gains."


def percent(known: Range, signed: bool = True) -> str:
    """Return a range as an estimate with bounds, in per cent."""
    written = partial(fixed_text, sign=signed)
    low, high = map(written, (known.low, known.high))
    return f"{written(known.estimate)} % ({low} to {high})" if known.estimate is not None else f"{low} to {high} %"


def advice_table(title: str, advice: Advice) -> TextTable:
    """Return what was measured of each part and what to do with it; estimates stand above their bounds."""
    rows = [
        [
            margins(one.part).replace(" to ", "\nto "),
            f"{one.part.pairs:,}\n{percent_text(one.part.share, 0)}",
            _two_lines(one.part.right, "{:.2f}".format),
            _two_lines(one.part.surplus, partial(signed_text, digits=1)),
            one.route,
            _two_lines(one.effect, signed_text),
        ]
        for one in advice.parts
    ]
    return TextTable(title, ["margin", "pairs", "P label", "surplus", "route", "% of gain"], rows)


def margins(part: Part) -> str:
    """Return the margins of a part."""
    return range_text(part.margin_min, part.margin_max)


def _two_lines(known: Range | None, written: Callable[[float], str]) -> str:
    """Return an estimate above its bounds; a bound alone where there is no estimate."""
    if known is None:
        return "-"
    low, high = written(known.low), written(known.high)
    if known.estimate is None:
        return f"above {low}" if known.high == float("inf") else f"under {high}"
    estimate = written(known.estimate)
    return estimate if low == high else f"{estimate}\n{low} to {high}"
