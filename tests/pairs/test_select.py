"""Rules of selection equal their definitions, tried over all pairs of a few answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixdpo.common.errors import InputError
from mixdpo.data.scored_answers import choose_pairs
from mixdpo.pairs.select import RULES, allowed_pairs, pairs_by_rule, together
from mixdpo.pairs.selection_settings import RULE_NAMES, SelectionRule, SelectionSettings

# Small whole scores, so that ties are common and no sum is rounded.
ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=7)
RATIOS = st.sampled_from([None, 1.0, 1.5, 3.0])


def select_pairs(
    scores: Sequence[float], lengths: Sequence[int], settings: SelectionSettings, key: str
) -> list[tuple[int, int]]:
    """Return what the rules of the settings choose together for one prompt."""
    allowed = allowed_pairs(scores, lengths, settings.length_ratio)
    return together([pairs_by_rule(rule, scores, allowed, settings, key) for rule in settings.select], settings)


def brute_force(rule: str, scores: list[int], lengths: list[int], ratio: float | None, gap: float) -> list[set[Any]]:
    """Return, for each pair that is to be there, the pairs that it may be."""

    def may(a: int, b: int) -> bool:
        short, long = sorted((lengths[a], lengths[b]))
        return ratio is None or long <= ratio * short

    if not scores:
        return []
    n = range(len(scores))
    decided = {(a, b) for a, b in permutations(n, 2) if scores[a] > scores[b] and may(a, b)}
    ties = {(a, b) for a, b in permutations(n, 2) if scores[a] == scores[b] and a < b and may(a, b)}
    best = scores.index(max(scores))
    of_best = {pair for pair in decided if pair[0] == best}

    def nearest(pairs: set[Any], distance: Any) -> list[set[Any]]:
        least = min(map(distance, pairs), default=0.0)
        return [{pair for pair in pairs if distance(pair) - least < 1e-9}] if pairs else []

    if rule == "best-worst":
        return [{min(found)} for found in nearest(of_best, lambda pair: scores[pair[1]])]
    if rule == "best-random":
        return [of_best] if of_best else []
    if rule == "best-low":
        wanted = fmean(scores) - 2 * pstdev(scores)
        return nearest(of_best, lambda pair: abs(scores[pair[1]] - wanted))
    if rule == "best-each":
        return [{pair} for pair in of_best | {(a, b) for a, b in ties if a == best}]
    if rule == "gap":
        return nearest(decided, lambda pair: abs(scores[pair[0]] - scores[pair[1]] - gap))
    if rule == "neighbours":
        order = sorted(n, key=lambda answer: (-scores[answer], answer))
        found = []
        for at, answer in enumerate(order):
            below = [other for other in order[at + 1 :] if may(answer, other)]
            found += [{(answer, below[0])}] if below else []
        return found
    return [{pair} for pair in (ties if rule == "ties" else ties | decided)]


@pytest.mark.parametrize("rule", RULE_NAMES)
@given(answers=ANSWERS, ratio=RATIOS, gap=st.sampled_from([1, 2, 4]), seed=st.integers(0, 3))
def test_a_rule_is_its_definition(
    rule: SelectionRule, answers: list[tuple[int, int]], ratio: float | None, gap: int, seed: int
) -> None:
    scores, lengths = [score for score, _ in answers], [length for _, length in answers]
    settings = SelectionSettings(select=(rule,), gap=gap, length_ratio=ratio, seed=seed)
    found = select_pairs(scores, lengths, settings, "a prompt")
    expected = brute_force(rule, scores, lengths, ratio, gap)
    assert len(found) == len(set(found)) == len(expected)
    for pair in found:
        (slot,) = [at for at, choices in enumerate(expected) if pair in choices]
        expected.pop(slot)


def test_every_rule_has_a_name() -> None:
    assert tuple(RULES) == RULE_NAMES


@given(answers=ANSWERS, names=st.lists(st.sampled_from(RULE_NAMES), min_size=1, max_size=4), most=st.integers(1, 4))
def test_rules_together_give_no_pair_twice(answers: list[tuple[int, int]], names: list[Any], most: int) -> None:
    scores, lengths = [score for score, _ in answers], [length for _, length in answers]
    alone = [select_pairs(scores, lengths, SelectionSettings(select=(name,), gap=1), "key") for name in names]
    both = select_pairs(scores, lengths, SelectionSettings(select=tuple(names), gap=1), "key")
    assert set(both) == {pair for pairs in alone for pair in pairs}
    assert len({frozenset(pair) for pair in both}) == len(both)
    few = SelectionSettings(select=tuple(names), gap=1, max_per_prompt=most)
    some = select_pairs(scores, lengths, few, "key")
    assert some == both[:most], "rule by rule"


@given(answers=ANSWERS, most=st.integers(1, 6), seed=st.integers(0, 3))
def test_few_pairs_of_best_each_have_as_many_margins_as_there_are(
    answers: list[tuple[int, int]], most: int, seed: int
) -> None:
    scores, lengths = [score for score, _ in answers], [length for _, length in answers]
    settings = SelectionSettings(select=("best-each",), max_per_prompt=most, seed=seed)
    found = select_pairs(scores, lengths, settings, "key")
    margins = [scores[a] - scores[b] for a, b in found]
    lower = {score for score in scores if score < max(scores)}
    graded = margins[: len(lower)]
    assert 0 not in graded, "a tie comes after one of each lower score"
    assert len(set(graded)) == len(graded) == min(most, len(lower))


@pytest.mark.parametrize("rule", ["best-each", "all", "neighbours", "ties"])
def test_which_pairs_are_kept_of_too_many_is_drawn(rule: SelectionRule) -> None:
    scores = [1.0] * 5 if rule == "ties" else [4.0, 3.0, 2.0, 1.0, 0.0]
    settings = SelectionSettings(select=(rule,), max_per_prompt=1)
    kept = {pair for number in range(100) for pair in select_pairs(scores, [1] * 5, settings, f"prompt {number}")}
    every = select_pairs(scores, [1] * 5, SelectionSettings(select=(rule,)), "")
    assert kept == set(every)


def test_draws_are_those_of_the_seed_and_the_prompt() -> None:
    scores = [9.0, *range(8)]
    settings = SelectionSettings(select=("best-random",))
    drawn = [select_pairs(scores, [1] * 9, settings, f"prompt {number}") for number in range(200)]
    assert drawn == [select_pairs(scores, [1] * 9, settings, f"prompt {number}") for number in range(200)]
    counts = [sum(pairs == [(0, answer)] for pairs in drawn) for answer in range(1, 9)]
    assert min(counts) >= 10, "about 25 each"
    other = SelectionSettings(select=("best-random",), seed=1)
    assert drawn != [select_pairs(scores, [1] * 9, other, f"prompt {number}") for number in range(200)]


def test_the_rules_of_data_with_several_answers_are_the_same() -> None:
    scores, key = [3.0, 8.0, 5.0, 8.0, 1.0], "A river?"
    allowed = allowed_pairs(scores, [1] * 5, None)
    for ours, theirs in (("best-worst", "best_vs_worst"), ("best-random", "best_vs_random")):
        found = pairs_by_rule(ours, scores, allowed, SelectionSettings(seed=42), key)
        assert found == choose_pairs(scores, theirs, random.Random(f"42 {key}"))


def test_of_five_answers_the_worst_is_nearest_to_two_deviations_below() -> None:
    """Of more, it need not be: here the worst of 12 is 2.9 deviations below."""
    five, twelve = [9.0, 8.0, 8.0, 7.0, 0.0], [9.0, *[8.0] * 9, 4.0, 0.0]
    settings = SelectionSettings(select=("best-low",))
    assert select_pairs(five, [1] * 5, settings, "") == [(0, 4)]
    assert select_pairs(twelve, [1] * 12, settings, "") == [(0, 10)]


def test_settings_that_choose_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="--gap MARGIN"):
        SelectionSettings(select=("gap",))
    with pytest.raises(InputError, match="best-worst"):
        SelectionSettings(select=())
    with pytest.raises(InputError, match="best-worst"):
        SelectionSettings(select=("best",))  # type: ignore[arg-type]
