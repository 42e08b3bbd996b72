"""Which of the answers to one prompt become pairs: rules on their scores, without their texts.

An answer is its place among those given, from 0; a pair is (chosen, rejected). Of equally good answers the first
counts as the better one. A rule gives its pairs in the order in which they are kept where a prompt has too many.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mixdpo.data.scored_answers import Pair, best_answer, choose_pairs, ordered_pairs
from mixdpo.pairs.selection_settings import SelectionRule, SelectionSettings

_LOW: Final = 2.0
"""Standard deviations below the mean at which `best-low` looks for the rejected answer (arXiv 2502.16825)."""


@dataclass(frozen=True)
class Candidates:
    """What a rule chooses from.

    Attributes:
        scores: of the answers to one prompt, finite; larger is better.
        allowed: the pairs that may be chosen, the better answer first.
        gap: the margin that the rule `gap` looks for.
        seed: what is drawn is drawn by it.
    """

    scores: Sequence[float]
    allowed: Sequence[Pair]
    gap: float | None
    seed: str

    @property
    def rng(self) -> random.Random:
        """Draws; made only for the rules that draw, for it takes as long as they do."""
        return random.Random(self.seed)

    def margin(self, pair: Pair) -> float:
        """Return by how much the chosen answer is better; 0 for a tie."""
        return self.scores[pair[0]] - self.scores[pair[1]]

    def of_best(self) -> list[Pair]:
        """Return the pairs of the best answer with another one."""
        best = best_answer(self.scores)
        return sorted(pair for pair in self.allowed if pair[0] == best)

    def drawn(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs in an order that is drawn."""
        return self.rng.sample(pairs, len(pairs)) if len(pairs) > 1 else list(pairs)


def pairs_by_rule(
    rule: SelectionRule, scores: Sequence[float], allowed: Sequence[Pair], settings: SelectionSettings, key: str
) -> list[Pair]:
    """Return all pairs of one rule among those that are allowed; a rule draws the same beside any others.

    Args:
        rule: its name.
        scores: of the answers to one prompt, finite; larger is better.
        allowed: see `allowed_pairs`.
        settings: its gap and seed are read.
        key: of the prompt; draws are made from it and the seed, so that they do not depend on other prompts.
    """
    return RULES[rule](Candidates(scores, allowed, settings.gap, f"{settings.seed} {key}"))


def together(by_rule: Sequence[Sequence[Pair]], settings: SelectionSettings) -> list[Pair]:
    """Return the pairs of several rules, none twice; of more than `max_per_prompt` the first, rule by rule."""
    return list(dict.fromkeys(pair for found in by_rule for pair in found))[: settings.max_per_prompt]


def allowed_pairs(scores: Sequence[float], lengths: Sequence[int], length_ratio: float | None) -> list[Pair]:
    """Return every two answers, the better one first, of which the longer is at most so many times as long.

    Args:
        scores: of the answers to one prompt, finite; larger is better.
        lengths: of the answers, at least 1.
        length_ratio: how many times; None for any.
    """
    pairs = ordered_pairs(scores)
    if length_ratio is None:
        return pairs
    return [(a, b) for a, b in pairs if max(lengths[a], lengths[b]) <= length_ratio * min(lengths[a], lengths[b])]


def _best_worst(given: Candidates) -> list[Pair]:
    return choose_pairs(given.scores, "best_vs_worst", given.rng, given.allowed)


def _best_random(given: Candidates) -> list[Pair]:
    return choose_pairs(given.scores, "best_vs_random", given.rng, given.allowed)


def _best_low(given: Candidates) -> list[Pair]:
    """The deviation is that of all answers, not corrected for their number: of five or fewer the worst is nearest."""
    n = max(len(given.scores), 1)
    mean = math.fsum(given.scores) / n
    wanted = mean - _LOW * math.sqrt(math.fsum((score - mean) ** 2 for score in given.scores) / n)
    return _nearest(_decided(given, given.of_best()), lambda pair: abs(given.scores[pair[1]] - wanted))


def _best_each(given: Candidates) -> list[Pair]:
    """One of each margin, a tie last, comes before a second of any, so that a few pairs have graded margins."""
    turn: dict[Pair, int] = {}
    seen: Counter[float] = Counter()
    for pair in given.drawn(given.of_best()):
        turn[pair] = seen[given.margin(pair)]
        seen[given.margin(pair)] += 1
    return sorted(turn, key=lambda pair: (turn[pair], given.margin(pair) == 0))


def _gap(given: Candidates) -> list[Pair]:
    gap = given.gap
    assert gap is not None, "the settings ask for it"
    return _nearest(_decided(given, given.allowed), lambda pair: abs(given.margin(pair) - gap))


def _all(given: Candidates) -> list[Pair]:
    return given.drawn(given.allowed)


def _neighbours(given: Candidates) -> list[Pair]:
    """Each answer and the first one below it, in the order of the scores, that it may be paired with."""
    rank = {answer: at for at, answer in enumerate(sorted(range(len(given.scores)), key=lambda at: -given.scores[at]))}
    following: dict[int, Pair] = {}
    for pair in sorted(given.allowed, key=lambda pair: (rank[pair[0]], rank[pair[1]])):
        following.setdefault(pair[0], pair)
    return given.drawn(list(following.values()))


def _ties(given: Candidates) -> list[Pair]:
    return given.drawn([pair for pair in given.allowed if given.margin(pair) == 0])


def _decided(given: Candidates, pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if given.margin(pair) > 0]


def _nearest(pairs: Sequence[Pair], distance: Callable[[Pair], float]) -> list[Pair]:
    return [min(pairs, key=distance)] if pairs else []


RULES: Final[Mapping[SelectionRule, Callable[[Candidates], list[Pair]]]] = {
    "best-worst": _best_worst,
    "best-random": _best_random,
    "best-low": _best_low,
    "best-each": _best_each,
    "gap": _gap,
    "all": _all,
    "neighbours": _neighbours,
    "ties": _ties,
}
"""What a rule chooses, by its name."""
