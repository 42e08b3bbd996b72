"""What rounds of training came to: figures of each round, warnings, one table and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.statistics import Interval, mean_interval
from mixdpo.common.tables import TextTable, percent_text, value_text
from mixdpo.generation.degenerate import LONGEST_GROWTH, MOST_CUT_MORE, find_degenerate
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.pairs.compare_models import NEWEST, PREFERRED, RATING

START: Final = "start"
LAST: Final = "last"
"""What a round's answers are compared with."""
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#999999"


@dataclass(frozen=True, kw_only=True)
class HeldOutResult:
    """How a model answers the held-out prompts.

    Attributes:
        answers: number of its answers.
        tokens: mean number of tokens of an answer; None where nothing says it.
        cut: share of answers that the model did not end.
        compared: prompts that it is compared on.
        left_out: prompts that it is not, without an answer on a side or a verdict.
        over_start: share of them on which its answer is preferred to the start's, ties half; None for the start.
        over_last: the same against the model of the round before.
        rating: mean rating of its answers, in the judge's unit; None where the judge only compares.
        start_rating: of the start's answers to the same prompts, rated together with them.
        gain: mean difference of the two.
    """

    answers: int
    tokens: float | None
    cut: float
    compared: int = 0
    left_out: int = 0
    over_start: Interval | None = None
    over_last: Interval | None = None
    rating: float | None = None
    start_rating: float | None = None
    gain: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """One round; number 0 is the start, which has no pairs.

    Attributes:
        number: of the round.
        model: folder or hub id of the model at its end.
        pairs: number of pairs it trained on.
        median_margin: of these, by the plan's metric; None without margins.
        ties: share of pairs of margin 0; None without margins.
        routes: pairs by route of the plan.
        held_out: see `HeldOutResult`.
        warnings: signs that the model degenerates.
    """

    number: int
    model: str
    pairs: int = 0
    median_margin: float | None = None
    ties: float | None = None
    routes: dict[str, int] | None = None
    held_out: HeldOutResult
    warnings: tuple[str, ...] = ()


def answers_result(prompts: Sequence[AnsweredPrompt]) -> HeldOutResult:
    """Return what held-out answers are like, compared with nothing."""
    answers = [answer for prompt in prompts for answer in prompt.answers]
    tokens = [answer.tokens for answer in answers if answer.tokens]
    return HeldOutResult(
        answers=len(answers),
        tokens=float(np.mean(tokens)) if tokens else None,
        cut=float(np.mean([answer.finished is False for answer in answers])) if answers else 0.0,
    )


def compared_result(answers: HeldOutResult, rows: Sequence[Mapping[str, Any]]) -> HeldOutResult:
    """Return what answers are like with how they compare: `rows` of `Compared`."""
    over_start, over_last, own, first = (
        np.array([row.get(key) for row in rows], dtype=np.float64)
        for key in (f"{PREFERRED}{START}", f"{PREFERRED}{LAST}", f"{RATING}{NEWEST}", f"{RATING}{START}")
    )
    rated = ~np.isnan(own - first)
    return replace(
        answers,
        compared=int((~np.isnan(over_start)).sum()),
        left_out=int(np.isnan(over_start).sum()),
        over_start=_mean(over_start, scale=(0.0, 1.0)),
        over_last=_mean(over_last, scale=(0.0, 1.0)),
        rating=float(own[rated].mean()) if rated.any() else None,
        start_rating=float(first[rated].mean()) if rated.any() else None,
        gain=_mean(own - first),
    )


def _mean(values: np.ndarray, scale: tuple[float, float] | None = None) -> Interval | None:
    """Return the mean of one value for each prompt with its interval, without those that are NaN; None of none."""
    known = values[~np.isnan(values)]
    return mean_interval(known, scale=scale) if len(known) else None


def with_warnings(result: RoundResult, start: RoundResult, answers: Sequence[str]) -> RoundResult:
    """Return a round with what its held-out answers show of a model that wins without being better."""
    now, before = result.held_out, start.held_out
    signs = [str(flag) for flag in find_degenerate(answers)]
    if now.tokens and before.tokens and now.tokens > LONGEST_GROWTH * before.tokens:
        times = now.tokens / before.tokens
        signs.append(f"answers are {times:.1f} times as long as the start's ({now.tokens:.0f} tokens on average)")
    if now.cut > before.cut + MOST_CUT_MORE:
        signs.append(
            f"{percent_text(now.cut, 0)} of answers are cut at the longest answer; "
            f"of the start's {percent_text(before.cut, 0)}"
        )
    return replace(result, warnings=tuple(signs))


def rounds_table(rounds: Sequence[RoundResult]) -> TextTable:
    """Return the table of all rounds, the start first."""
    prompts = rounds[0].held_out.answers
    graded = any(one.held_out.rating is not None for one in rounds)
    headings = ["round", "pairs", "median margin", "ties", "preferred to start", "to round before",
                *(["rating", "gain on start"] if graded else []), "tokens", "cut"]  # fmt: skip
    return TextTable(
        title=f"rounds, {prompts:,} held-out prompts, 95 % intervals",
        headings=headings,
        rows=[_row(one, graded) for one in rounds],
    )


def _row(one: RoundResult, graded: bool) -> list[str]:
    held_out = one.held_out
    return [
        "start" if one.number == 0 else str(one.number),
        f"{one.pairs:,}" if one.number else "-",
        value_text(one.median_margin),
        _percent(one.ties),
        _percent_interval(held_out.over_start),
        _percent_interval(held_out.over_last),
        *([value_text(held_out.rating), _interval(held_out.gain)] if graded else []),
        value_text(held_out.tokens, 0),
        _percent(held_out.cut),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else percent_text(share, 0)


def _percent_interval(share: Interval | None) -> str:
    if share is None:
        return "-"
    low, high = percent_text(max(share.low, 0), 0), percent_text(min(share.high, 1), 0)
    return f"{percent_text(share.estimate, 0)} ({low} to {high})"


def _interval(gain: Interval | None) -> str:
    return "-" if gain is None else f"{gain.estimate:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def rounds_figure(rounds: Sequence[RoundResult]) -> Figure:
    """Draw win rates, margins and lengths by round."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    wins, margins, lengths = figure.subplots(1, 3)
    numbers = [one.number for one in rounds]

    _intervals(wins, rounds, "over_start", "to the start's", _BLUE, -0.05)
    _intervals(wins, rounds, "over_last", "to those of the round before", _ORANGE, 0.05)
    wins.axhline(0.5, color=_GREY, linewidth=0.8)
    wins.set_ylim(0, 1)
    wins.set_ylabel("share of held-out prompts")
    wins.set_title("Held-out answers preferred, 95 % intervals", fontsize="medium")

    trained = [one for one in rounds if one.number]
    shares = margins.twinx()
    shares.bar([one.number for one in trained], [one.ties or 0.0 for one in trained], 0.4, color=_ORANGE, alpha=0.3)
    shares.set_ylim(0, 1)
    shares.set_ylabel("share of ties (bars)")
    known = [one for one in trained if one.median_margin is not None]
    margins.plot([one.number for one in known], [one.median_margin for one in known], marker="o", color=_BLUE)
    margins.set_ylim(0, 1.1 * max((one.median_margin or 0.0 for one in known), default=0.0) or 1.0)
    margins.set_ylabel("median margin")
    margins.set_title("Pairs of the newest model", fontsize="medium")

    cut = lengths.twinx()
    cut.bar(numbers, [one.held_out.cut for one in rounds], 0.4, color=_ORANGE, alpha=0.3)
    cut.set_ylim(0, 1)
    cut.set_ylabel("share of cut answers (bars)")
    known = [one for one in rounds if one.held_out.tokens is not None]
    lengths.plot([one.number for one in known], [one.held_out.tokens for one in known], marker="o", color=_BLUE)
    lengths.set_ylim(bottom=0)
    lengths.set_ylabel("mean tokens")
    lengths.set_title("Length of held-out answers", fontsize="medium")

    for axis in (wins, margins, lengths):
        axis.set_xlabel("round")
        axis.set_xlim(-0.5, numbers[-1] + 0.5)
        axis.set_xticks(numbers, ["start" if number == 0 else str(number) for number in numbers])
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small", frameon=False)
    return figure


def _intervals(axis: Axes, rounds: Sequence[RoundResult], name: str, label: str, colour: str, shift: float) -> None:
    found: list[tuple[int, Any]] = [(one.number, getattr(one.held_out, name)) for one in rounds]
    found = [(number, share) for number, share in found if share is not None]
    if not found:
        return
    middles = np.array([share.estimate for _, share in found])
    ends = np.array([[share.low, share.high] for _, share in found]).clip(0, 1)
    axis.errorbar(
        [number + shift for number, _ in found], middles, [middles - ends[:, 0], ends[:, 1] - middles],
        fmt="o", color=colour, capsize=4, label=label,
    )  # fmt: skip
