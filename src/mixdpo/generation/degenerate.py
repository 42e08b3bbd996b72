"""Answers that can win a benchmark without being any good: constant, empty, endless, or addressed to the judge."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mixdpo.common.tables import percent_text

LARGEST_SHARE: Final = {"same answer": 0.2, "empty": 0.1, "addresses the judge": 0.02, "repeats itself": 0.1}
"""Share of answers above which a model is flagged."""

FEWEST_ANSWERS: Final = 10
"""With fewer answers nothing is flagged."""

LONGEST_GROWTH: Final = 1.5
"""Times the mean length of the start's answers beyond which those of a trained model are warned of."""
MOST_CUT_MORE: Final = 0.1
"""Share of answers cut at the longest answer, beyond the start's, above which a trained model is warned of."""

_TO_THE_JUDGE = re.compile(
    r"\[\[(?:[AB][<>=]{1,2}[AB]|[ABC]|rating|\d+)\]\]|model_identifier|best model identifier|"
    r"<\|The (?:Start|End) of Assistant|\b(?:dear|attention,?) (?:judge|evaluator)|"
    r"\bas (?:the|an) (?:impartial )?(?:judge|evaluator)\b|"
    r"\b(?:assistant|model|output|response) [AB12mM] is (?:significantly |slightly |clearly )?(?:better|the best)\b|"
    r"ignore (?:all )?(?:the )?(?:previous|above) instructions",
    re.IGNORECASE,
)
_LONG: Final = 400
_REPETITIVE: Final = 0.12
"""Compressed size / size under which a long answer repeats itself; English prose is at 0.4 to 0.6."""


@dataclass(frozen=True)
class Flag:
    """A sign of a degenerate model, and the share of its answers that show it."""

    sign: str
    share: float

    def __str__(self) -> str:
        return f"{self.sign}: {percent_text(self.share, 0)} of answers"


def find_degenerate(answers: Sequence[str]) -> list[Flag]:
    """Return the signs that more answers show than `LARGEST_SHARE` allows."""
    if len(answers) < FEWEST_ANSWERS:
        return []
    whole = [answer.strip() for answer in answers]
    written = Counter(answer for answer in whole if answer)
    shares = {
        "same answer": max(written.values(), default=0) / len(whole),
        "empty": whole.count("") / len(whole),
        "addresses the judge": float(np.mean([_TO_THE_JUDGE.search(answer) is not None for answer in whole])),
        "repeats itself": float(np.mean([_repeats(answer) for answer in whole])),
    }
    # A refusal or a "Yes." may come twice by chance.
    if max(written.values(), default=0) < 3:
        shares["same answer"] = 0.0
    return [Flag(sign, share) for sign, share in shares.items() if share > LARGEST_SHARE[sign]]


def find_constant_length(lengths: np.ndarray) -> list[Flag]:
    """Return the flag of a constant answer from lengths alone, for verdicts that come without the answers."""
    if len(lengths) < FEWEST_ANSWERS:
        return []
    _, counts = np.unique(lengths, return_counts=True)
    share = float(counts.max() / len(lengths))
    return [Flag("same length, so perhaps the same answer", share)] if share > LARGEST_SHARE["same answer"] else []


def repeated_share(ids: Sequence[int], n: int = 4) -> float:
    """Return the share of an answer's runs of n tokens that came before in it; 0 for fewer than n tokens."""
    runs = list(zip(*(ids[place:] for place in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _repeats(answer: str) -> bool:
    content = answer.encode()
    return len(content) >= _LONG and len(zlib.compress(content)) / len(content) < _REPETITIVE
