"""Whether a policy degenerates: its answers to fixed prompts against those of the start to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mixdpo.common.statistics import mean_interval
from mixdpo.common.tables import percent_text
from mixdpo.generation.degenerate import FEWEST_ANSWERS, LONGEST_GROWTH, MOST_CUT_MORE, find_degenerate
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.training.answers import measures

_ENTROPY_TIMES: Final = 2.0
_MOST_REPEATED_MORE: Final = 0.1


@dataclass(frozen=True)
class _Sign:
    """What of the answers is compared with the start's, and how far it may move: to `times` of it and `more`."""

    name: str
    measure: str
    text: str
    times: float = 1.0
    more: float = 0.0
    falls: bool = False
    """Whether the measure is to fall so far, and not to rise."""


_LENGTH: Final = "answers have {now:.0f} tokens on average, and the start's {start:.0f}"
_ENTROPY: Final = "a token's distribution has {now:.2f} nats of entropy on average, and the start's {start:.2f}"
_SIGNS: Final = (
    _Sign("longer", "tokens", _LENGTH, times=LONGEST_GROWTH),
    _Sign("shorter", "tokens", _LENGTH, times=LONGEST_GROWTH, falls=True),
    _Sign("unfinished", "finished", "{now_share} of answers are finished, and of the start's {start_share}",
          more=MOST_CUT_MORE, falls=True),
    _Sign("repetition", "repetition", "{now_share} of what an answer says it has said before, and of the start's "
          "{start_share}", more=_MOST_REPEATED_MORE),
    _Sign("entropy fell", "entropy", _ENTROPY, times=_ENTROPY_TIMES, falls=True),
    _Sign("entropy rose", "entropy", _ENTROPY, times=_ENTROPY_TIMES),
)  # fmt: skip


def _told(sign: _Sign, now: float, start: float) -> str:
    shares = {"now_share": percent_text(now, 0), "start_share": percent_text(start, 0)}
    return sign.text.format(now=now, start=start, **shares)


def find_degeneration(now: Sequence[AnsweredPrompt], start: Sequence[AnsweredPrompt]) -> dict[str, str]:
    """Return the signs that answers degenerate, by name, with what was measured.

    A measure counts as moved if the whole 95 % interval of its excess over the bound is above 0: Student's, of one
    difference for each prompt. So chance alone raises an alarm in one evaluation of 40 for a policy that is at the
    bound, and hardly ever for one that is where it started. `find_degenerate` adds what the start's answers did not
    show.

    Args:
        now: the policy's answer to each prompt.
        start: the start's, in the same order.
    """
    if len(now) < FEWEST_ANSWERS:
        return {}
    own, first = measures(now), measures(start)
    found = {}
    for sign in _SIGNS:
        values, before = own[sign.measure], first[sign.measure]
        low, high = (values, before) if sign.falls else (before, values)
        if mean_interval(high - sign.times * low - sign.more).low > 0:
            found[sign.name] = _told(sign, values.mean(), before.mean())
    texts, texts_before = ([prompt.answers[0].text for prompt in prompts] for prompts in (now, start))
    shown = {flag.sign for flag in find_degenerate(texts_before)}
    return found | {flag.sign: str(flag) for flag in find_degenerate(texts) if flag.sign not in shown}
