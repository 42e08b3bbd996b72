"""Results in a sentence: who beats whom, by how much, how sure that is, and what a reader must be warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mixdpo.common.tables import percent_text
from mixdpo.evaluation.statistics.paired import Difference
from mixdpo.evaluation.statistics.win_rates import LEVEL
from mixdpo.evaluation.unread import is_mostly_unread, unread_verdicts

Record = Mapping[str, Any]
"""What a result says of one model that was compared with a baseline; see `mixdpo.evaluation.benchmarks.pairwise`."""
_FOLLOWS_LENGTH: Final = 60.0
"""Per cent of verdicts for the longer answer from which on, or for the shorter one, a judge follows length."""
_SAME_WINNER: Final = 60.0
"""Per cent of prompts with the same winner in both games, under which a judge follows the order of the answers."""
_TOLD_UNREAD: Final = 5.0
"""Per cent of games without a verdict from which on a reader is told."""
_SEES_LITTLE: Final = 60.0
"""A win rate in per cent that should be found; where the prompts are too few for it, a reader is told."""


def win_sentence(model: str, baseline: str, one: Record, judge: str | None = None) -> str:
    """Return who wins in a sentence, such as "own beats base on 58 % of 200 prompts (95 % interval 51 to 65, p 0.03)".

    Args:
        model: name of the model.
        baseline: name of what it was compared with.
        one: its record.
        judge: who judged.
    """
    if is_mostly_unread(one):
        unread, games = unread_verdicts(one)
        whose = f" of {judge}" if judge else ""
        return (
            f"who wins, {model} or {baseline}, is not known: {unread:,} of {games:,} verdicts{whose} could not be read"
        )
    rate, prompts, by = one["win_rate"], one["n_prompts"], f" by {judge}" if judge else ""
    ends = one["win_rate_interval"]
    if is_clear(one):
        winner, loser, turned = (model, baseline, False) if rate > 50 else (baseline, model, True)
        who = f"{winner} beats {loser} on"
    else:
        winner, turned = model, False
        who = f"no difference is seen: {model} wins against {baseline} on"
    if turned:
        rate, ends = 100 - rate, [100 - ends[1], 100 - ends[0]]
    interval = f"{percent_text(LEVEL, 0)} interval {_ends(ends, prompts)}, " if ends is not None else ""
    found = f"{who} {_percent(rate, prompts)} of {prompt_count(prompts)} ({interval}{_p(one['p_value'])}){by}"
    return found + _after(one, winner, turned)


def is_clear(one: Record) -> bool:
    """Whether there is a difference to the baseline: by the test, and by the interval."""
    ends = one["win_rate_interval"]
    return ends is not None and one["p_value"] < 1 - LEVEL and not ends[0] <= 50 <= ends[1]


def _after(one: Record, winner: str, turned: bool) -> str:
    if not is_clear(one):
        prompts, detectable = one["n_prompts"], one.get("detectable_win_rate")
        if detectable is None:
            return f"; {prompt_count(prompts)} {_are(prompts)} too few to see any"
        return f"; with {prompt_count(prompts)} 80 % power needs a win rate of {detectable:.0f} %"
    equal, lengths = one.get("equal_length"), one.get("lengths")
    if equal is None and lengths is not None and lengths["longer"] in (0.0, 1.0):
        which = "longer" if (lengths["longer"] == 1) != turned else "shorter"
        return f"; what length explains cannot be told, for every answer of {winner} is the {which} one"
    if equal is None:
        return ""
    sign = -1 if turned else 1
    gain, explained = round(abs(one["win_rate"] - 50)), round(sign * equal["explained"])
    rate, ends = equal["win_rate"], equal["interval"]
    if turned:
        rate, ends = 100 - rate, [100 - ends[1], 100 - ends[0]]
    if explained <= 0:
        part = "nothing"
    else:
        part = f"{explained} of the {gain} points over 50" if explained < gain else "all of it"
    return f"; length explains {part}: at equal length {winner} would win on {rate:.0f} % ({_ends(ends, 0)})"


def win_warnings(one: Record) -> list[str]:
    """Return what a reader of a win rate must know: what the judge follows, and what the games cannot show."""
    found = [] if is_mostly_unread(one) else [*_length_warning(one), *_position_warning(one), *_power_warning(one)]
    unread, games = unread_verdicts(one)
    share = 100 * unread / games if games else 0.0
    if share > _TOLD_UNREAD:
        found.append(f"{unread:,} of {games:,} games ({share:.0f} %) have no verdict that could be read")
    if quoting := one.get("n_quoting"):
        found.append(f"{quoting:,} replies of the judge quote another verdict than their own, as answers may suggest")
    return found


def _length_warning(one: Record) -> list[str]:
    longer = (one.get("lengths") or {}).get("longer_wins")
    if longer is None or longer["low"] <= 0.5 <= longer["high"]:
        return []
    share = 100 * longer["estimate"]
    if 100 - _FOLLOWS_LENGTH < share < _FOLLOWS_LENGTH:
        return []
    which = "longer" if share > 50 else "shorter"
    share, ends = (share, _in_percent(longer)) if share > 50 else (100 - share, _turned(_in_percent(longer)))
    return [
        f"the judge may follow length: the {which} answer wins {share:.0f} % of the decided prompts "
        f"(95 % interval {_ends(ends, 0)})"
    ]


def _position_warning(one: Record) -> list[str]:
    bias = one.get("position_bias")
    if bias is None:
        return []
    consistent, first = 100 * bias["consistent"]["estimate"], bias["first_shown"]
    if bias["p_value"] >= 1 - LEVEL or first is None:
        if consistent >= _SAME_WINNER:
            return []
        return [f"the judge is unsure: only {consistent:.0f} % of the prompts have the same winner in both orders"]
    share = 100 * first["estimate"]
    if consistent >= 90:
        return []
    which, share = ("first", share) if share > 50 else ("second", 100 - share)
    return [
        f"the judge follows position: the answer shown {which} wins {share:.0f} % of the decided games, and "
        f"{consistent:.0f} % of the prompts have the same winner in both orders"
    ]


def _power_warning(one: Record) -> list[str]:
    """Say that prompts are few, where no difference was seen among them."""
    detectable, prompts = one.get("detectable_win_rate"), one["n_prompts"]
    if is_clear(one) or (detectable is not None and detectable <= _SEES_LITTLE):
        return []
    if detectable is None:
        return [f"{prompt_count(prompts)} {_are(prompts)} too few: even a win on every one could be chance"]
    return [
        f"{prompt_count(prompts)} {_are(prompts)} few: a true win rate of less than {detectable:.0f} % may go unseen"
    ]


def difference_sentence(
    one: Difference | Mapping[str, Any], words: str, prompts: str = "prompts", unit: str = ""
) -> str:
    """Return a paired difference in a sentence, with the p-value corrected for all differences beside it.

    Args:
        one: the difference, or what a result file says of it.
        words: what the metric is called, such as `rating`.
        prompts: what was drawn.
        unit: of the metric; differences of percentages are points.
    """
    read = one if isinstance(one, Mapping) else vars(one)
    gain = read["gain"] if isinstance(read["gain"], Mapping) else vars(read["gain"])
    first, second = read["first"], read["second"]
    clear = read["p_adjusted"] < 0.05 and not gain["low"] <= 0 <= gain["high"]
    size, ends = gain["estimate"], [gain["low"], gain["high"]]
    if clear and size < 0:
        first, second, size, ends = second, first, -size, [-ends[1], -ends[0]]
    who = f"{second} beats {first} by" if clear else f"no difference is seen between {first} and {second}:"
    form = "+.1f" if max(map(abs, ends)) >= 20 else "+.2f"
    written = [format(value, form).replace("-", "−") for value in (size, *ends)]
    amount = (written[0].lstrip("+") if clear else written[0]) + (" points" if unit == " %" else unit)
    interval = percent_text(gain["level"], 0)
    return (
        f"{who} {amount} in {words} on the same {prompts} ({interval} interval {written[1]} to {written[2]}, "
        f"{_p(read['p_adjusted'])})"
    )


def clear_sentence(differences: Sequence[Difference], words: str) -> str:
    """Return how many of several paired differences of a metric are clear."""
    clear = sum(one.p_adjusted < 0.05 and not one.gain.low <= 0 <= one.gain.high for one in differences)
    return (
        f"{clear} of {len(differences)} differences in {words} on the same prompts are clear "
        f"(p < 0.05 after Holm's correction)"
    )


def leader_sentence(
    model: str, words: str, value: float, ends: Sequence[float] | None, baseline: str | None = None, *,
    unit: str = "", digits: int = 2, lowest: bool = False,
) -> str:  # fmt: skip
    """Return who is first, such as "own has the highest win rate against base: 58.3 % (95 % interval 51.2 to 65.0)".

    Args:
        model: the first.
        words: what its metric is called.
        value: of the metric.
        ends: of its interval.
        baseline: what all models were compared with.
        unit: what stands behind the value.
        digits: decimals.
        lowest: whether the smallest value is first.
    """
    written = [f"{one:,.{digits}f}".replace("-", "−") for one in (value, *(ends or ()))]
    interval = f" (95 % interval {written[1]} to {written[2]})" if ends is not None else ""
    against = f" against {baseline}" if baseline is not None else ""
    return f"{model} has the {'lowest' if lowest else 'highest'} {words}{against}: {written[0]}{unit}{interval}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p {value:.1g}" if value < 0.1 else f"p {value:.2f}"


def _percent(value: float, prompts: int) -> str:
    return f"{value:.{_digits(prompts)}f} %"


def _ends(ends: Sequence[float], prompts: int) -> str:
    return " to ".join(f"{end:.{_digits(prompts)}f}" for end in ends)


def _digits(prompts: int) -> int:
    return 1 if prompts >= 1000 else 0


def prompt_count(count: int) -> str:
    """Return a number of prompts in words."""
    return f"{count:,} {'prompt' if count == 1 else 'prompts'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _in_percent(share: Mapping[str, float]) -> list[float]:
    return [100 * share["low"], 100 * share["high"]]


def _turned(ends: Sequence[float]) -> list[float]:
    return [100 - ends[1], 100 - ends[0]]
