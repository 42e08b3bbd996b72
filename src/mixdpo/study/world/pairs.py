"""Pairs of set quality, label noise and share of small margins, and pairs as they arise in practice."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from mixdpo.study.world.language import Language, text_of

EASY_MARGIN: Final = 0.15
"""Least true margin of an easy pair."""
HARD_MARGIN: Final = 0.06
"""Largest true margin of a hard pair."""
_QUALITY_WITHIN: Final = 0.05
_SKILL_SPREAD: Final = 0.08
_CANDIDATES: Final = 8
_RATED: Final = 4
_GOOD_SKILL: Final = 0.6
_LEAST_FOUND: Final = 0.01
"""Share of prompts with a fitting pair under which a quality counts as out of reach."""
_SKILLS: Final = np.linspace(0, 1, 21)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What the pairs of a controlled cell are like.

    Attributes:
        hard_share: share of pairs whose answers are almost equally good.
        hard_quality: mean true reward of their answers.
        hard_labels_right: probability that the better of the two is the chosen one.
        easy_labels_right: the same of the other pairs.
        hard_source: who wrote the hard pairs' answers: writers, or the base itself.
    """

    hard_share: float = 0.3
    hard_quality: float = 0.55
    hard_labels_right: float = 0.5
    easy_labels_right: float = 1.0
    hard_source: Literal["writers", "own"] = "writers"


@dataclass(frozen=True, kw_only=True)
class NaturalCell:
    """Pairs as UltraFeedback's were made: the best of four answers by a noisy rater against a random other.

    Attributes:
        source: who wrote the answers: writers of any skill, good writers, or the base itself.
        rater_noise: standard deviation of the rater's errors, in reward.
        scale_step: step of the rater's scale, which makes ties.
        hard_share: share of pairs that plans route, by the rater's margins.
    """

    source: Literal["writers", "good", "own"] = "writers"
    rater_noise: float = 0.15
    scale_step: float = 0.1
    hard_share: float = 0.3


@dataclass(frozen=True)
class WorldPairs:
    """Pairs of a world as labelled; arrays of N rows.

    Attributes:
        prompts, chosen, rejected: int64, as `Language` has them.
        reward_chosen, reward_rejected: true rewards, float64; a wrong label has the larger one rejected.
        margin: what a plan sees, float64, larger = easier.
        label_right: probability that the label is right, as a second rater would estimate it, float64.
    """

    prompts: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    reward_chosen: np.ndarray
    reward_rejected: np.ndarray
    margin: np.ndarray
    label_right: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Several answers to each of M prompts, int64 (M, P) and (M, K, A), with their true rewards, float64 (M, K)."""

    prompts: np.ndarray
    answers: np.ndarray
    rewards: np.ndarray

    def choose(self, rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> _Answers:
        """Return two answers to each prompt of `rows` (int64, (N,)) by their places among the K."""
        return _Answers(
            self.prompts[rows],
            self.answers[rows, first],
            self.answers[rows, second],
            self.rewards[rows, first],
            self.rewards[rows, second],
        )


@dataclass(frozen=True)
class _Answers:
    """Prompts with two answers each, neither of them chosen yet; rows as in `WorldPairs`."""

    prompts: np.ndarray
    one: np.ndarray
    other: np.ndarray
    reward_one: np.ndarray
    reward_other: np.ndarray

    def __add__(self, more: _Answers) -> _Answers:
        return _Answers(*(np.concatenate([getattr(part, f.name) for part in (self, more)]) for f in fields(self)))


def written(language: Language, skill: np.ndarray, random: np.random.Generator) -> Candidates:
    """Let writers of `skill` (float64, shape (M, K)) answer M new prompts K times."""
    prompts = language.prompts(len(skill), random)
    repeated = np.repeat(prompts, skill.shape[1], axis=0)
    answers = language.write(repeated, skill.ravel(), random)
    rewards = language.reward(repeated, answers)
    return Candidates(prompts, answers.reshape(*skill.shape, -1), rewards.reshape(skill.shape))


def skill_of_quality(language: Language, quality: float) -> float:
    """Return the skill of writers whose mean reward is `quality`, or the nearest one there is."""
    return float(np.interp(quality, _mean_rewards(language), _SKILLS))


@cache
def _mean_rewards(language: Language) -> np.ndarray:
    """Return the mean reward of writers of each of `_SKILLS`, which chance does not let fall."""
    random = np.random.default_rng(17)
    means = [written(language, np.full((2000, 1), skill), random).rewards.mean() for skill in _SKILLS]
    return np.maximum.accumulate(means)


def hard_pairs(
    language: Language, count: int, quality: float, random: np.random.Generator, own: Candidates | None = None
) -> _Answers:
    """Return pairs of almost equal true reward, whose mean reward is `quality`.

    Args:
        language: the world.
        count: how many.
        quality: the wanted mean reward of both answers; each pair is within 0.05 of it.
        random: of the draws.
        own: the base's answers to take them from; None lets writers of fitting skill write.

    Raises:
        ValueError: hardly any answers are of that quality.
    """
    first, second = np.triu_indices(_CANDIDATES, 1)
    skill = skill_of_quality(language, quality) if own is None else 0.0
    found: _Answers | None = None
    while found is None or len(found.prompts) < count:
        if own is None:
            spread = skill + _SKILL_SPREAD * random.standard_normal((2 * count + 200, _CANDIDATES))
            from_ = written(language, np.clip(spread, 0, 1), random)
        else:
            shuffled = random.permutation(len(own.prompts))
            from_ = Candidates(own.prompts[shuffled], own.answers[shuffled], own.rewards[shuffled])
        one, other = from_.rewards[:, first], from_.rewards[:, second]
        apart, mean = np.abs(one - other), (one + other) / 2
        fits = (apart <= HARD_MARGIN) & (apart > 1e-6) & (np.abs(mean - quality) <= _QUALITY_WITHIN)
        rows = np.flatnonzero(fits.any(axis=1))
        if len(rows) < _LEAST_FOUND * len(from_.prompts):
            raise ValueError(f"hardly any answers of {language.name} have a reward of {quality:g}")
        pick = (fits[rows] * random.random(fits[rows].shape)).argmax(axis=1)
        more = from_.choose(rows, first[pick], second[pick])
        found = more if found is None else found + more
    return _Answers(*(getattr(found, f.name)[:count] for f in fields(found)))


def easy_pairs(own: Candidates, count: int, random: np.random.Generator) -> _Answers:
    """Return pairs of two of the base's own answers whose true rewards are `EASY_MARGIN` or more apart."""
    half = own.rewards.shape[1] // 2
    rows = random.permutation(len(own.prompts))
    first, second = random.integers(0, half, len(rows)), half + random.integers(0, half, len(rows))
    apart = np.flatnonzero(np.abs(own.rewards[rows, first] - own.rewards[rows, second]) >= EASY_MARGIN)[:count]
    if len(apart) < count:
        raise ValueError(f"the pool has {len(apart)} easy pairs of {count}")
    return own.choose(rows[apart], first[apart], second[apart])


def controlled_pairs(language: Language, own: Candidates, cell: Cell, count: int, seed: int) -> WorldPairs:
    """Draw the pairs of a cell. Cells of a seed share their easy pairs and the uniforms that decide flips."""
    hard = round(cell.hard_share * count)
    easy = easy_pairs(own, count - hard, np.random.default_rng([3, seed]))
    source = own if cell.hard_source == "own" else None
    of_hard = np.random.default_rng([4, seed, round(1000 * cell.hard_quality), source is not None])
    both = easy + hard_pairs(language, hard, cell.hard_quality, of_hard, source)
    right = np.where(np.arange(count) < count - hard, cell.easy_labels_right, cell.hard_labels_right)
    is_right = np.random.default_rng([6, seed]).random(count) < right
    return _labelled(both, (both.reward_one > both.reward_other) == is_right, right)


def _labelled(both: _Answers, one_is_chosen: np.ndarray, label_right: np.ndarray) -> WorldPairs:
    def sides(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = one_is_chosen[:, None] if one.ndim == 2 else one_is_chosen
        return np.where(mask, one, other), np.where(mask, other, one)

    chosen, rejected = sides(both.one, both.other)
    reward_chosen, reward_rejected = sides(both.reward_one, both.reward_other)
    margin = np.abs(both.reward_one - both.reward_other)
    return WorldPairs(both.prompts, chosen, rejected, reward_chosen, reward_rejected, margin, label_right)


def natural_pairs(language: Language, own: Candidates, cell: NaturalCell, count: int, seed: int) -> WorldPairs:
    """Draw pairs as they arise in practice. The rater's margins are what plans see.

    `label_right` is the share of right labels among the pairs of the same margin, between 0.5 and 0.99; ties of true
    reward count half.
    """
    random = np.random.default_rng([21, seed, ("writers", "good", "own").index(cell.source)])
    if cell.source == "own":
        rows = random.permutation(len(own.prompts))[:count]
        four = Candidates(own.prompts[rows], own.answers[rows, :_RATED], own.rewards[rows, :_RATED])
    else:
        least = _GOOD_SKILL if cell.source == "good" else 0.0
        four = written(language, least + (1 - least) * random.random((count, _RATED)), random)
    noisy = four.rewards + cell.rater_noise * random.standard_normal(four.rewards.shape)
    rated = np.round(noisy / cell.scale_step)
    best = (rated + 0.1 * random.random(rated.shape)).argmax(axis=1)  # of equal ones by chance
    other = (best + random.integers(1, _RATED, count)) % _RATED
    rows = np.arange(count)
    both = four.choose(rows, best, other)
    steps = (rated[rows, best] - rated[rows, other]).astype(np.int64)
    won = (both.reward_one > both.reward_other) + 0.5 * (both.reward_one == both.reward_other)
    right = (np.bincount(steps, won) / np.maximum(np.bincount(steps), 1)).clip(0.5, 0.99)[steps]
    return WorldPairs(
        both.prompts, both.one, both.other, both.reward_one, both.reward_other, steps * cell.scale_step, right
    )


def draw_pairs(language: Language, own: Candidates, cell: Cell | NaturalCell, count: int, seed: int) -> WorldPairs:
    """Draw the pairs of a cell of either kind."""
    if isinstance(cell, Cell):
        return controlled_pairs(language, own, cell, count, seed)
    return natural_pairs(language, own, cell, count, seed)


def as_rows(language: Language, pairs: WorldPairs) -> list[dict[str, Any]]:
    """Return the pairs as conversations with their margins, which `load_pairs` reads."""

    def message(role: str, ids: np.ndarray) -> list[dict[str, str]]:
        return [{"role": role, "content": text_of(language, ids.tolist())}]

    return [
        {
            "prompt": message("user", prompt),
            "chosen": message("assistant", chosen),
            "rejected": message("assistant", rejected),
            "margin": margin,
        }
        for prompt, chosen, rejected, margin in zip(
            pairs.prompts, pairs.chosen, pairs.rejected, pairs.margin.tolist(), strict=True
        )
    ]
