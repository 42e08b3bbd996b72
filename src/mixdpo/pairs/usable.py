"""Which answers to a prompt can stand in a pair: those with a text, a score and an end, none of them twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from mixdpo.common.files import digest
from mixdpo.common.shingles import NGRAM, shingles
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.selection_settings import SelectionSettings

REASONS: Final = {
    "empty": "the answer holds only white space",
    "no_score": "the answer has no score, or is not by a writer that was named",
    "cut": "the model did not end the answer",
    "identical": "the same text as another answer to the prompt",
    "near_identical": "nearly the same words as another answer to the prompt",
}
"""Why an answer is left out; it has the first reason that applies."""
_PROMPTS: Final = 1_000
"""Prompts whose answers are compared together, to bound the memory for their words."""


@dataclass(frozen=True)
class UsableAnswers:
    """What is left of the answers.

    Attributes:
        answers: to each prompt, by the number of the sample, those of one number in an order that only depends on
            their texts and the seed: of equally good ones the first is drawn, so to speak, and not always the first
            model's.
        left_out: by reason, how many answers are left out, and to how many prompts.
    """

    answers: list[list[Answer]]
    left_out: dict[str, dict[str, int]]


def usable_answers(prompts: Sequence[AnsweredPrompt], settings: SelectionSettings) -> UsableAnswers:
    """Leave out the answers that no pair is made of, and count them by reason."""
    reasons: list[list[str]] = []
    kept: list[list[Answer]] = []
    for prompt in prompts:
        reasons.append([])
        kept.append([])
        for answer in sorted(prompt.answers, key=lambda answer: _place(answer, settings.seed)):
            reason = _fault(answer, kept[-1], settings)
            if reason is None:
                kept[-1].append(answer)
            else:
                reasons[-1].append(reason)
    for number, copies in _near_copies(kept, settings.near_similarity):
        kept[number] = [answer for at, answer in enumerate(kept[number]) if at not in copies]
        reasons[number] += ["near_identical"] * len(copies)
    left_out = {
        reason: {
            "answers": sum(found.count(reason) for found in reasons),
            "prompts": sum(reason in found for found in reasons),
        }
        for reason in REASONS
    }
    return UsableAnswers(kept, {reason: count for reason, count in left_out.items() if count["answers"]})


def _place(answer: Answer, seed: int) -> tuple[int, str, float]:
    sample = answer.columns.get("sample")
    number = sample if isinstance(sample, int) else 0
    return number, digest([str(seed), answer.text, answer.model]), answer.score


def _fault(answer: Answer, before: Sequence[Answer], settings: SelectionSettings) -> str | None:
    if not answer.text.strip():
        return "empty"
    if not math.isfinite(answer.score):
        return "no_score"
    if answer.finished is False and not settings.keep_cut:
        return "cut"
    return "identical" if any(answer.text == other.text for other in before) else None


def _near_copies(answers: Sequence[Sequence[Answer]], least: float) -> Iterator[tuple[int, set[int]]]:
    """Yield the prompts with answers that share `least` of their n-grams with one before that is kept, and which.

    Shared are n-grams of both over n-grams of either (Jaccard), each counted once. Texts without a word share nothing.
    """
    for start in range(0, len(answers), _PROMPTS):
        batch = answers[start : start + _PROMPTS]
        grams = _grams([answer.text for of_prompt in batch for answer in of_prompt])
        for number, of_prompt in enumerate(batch, start=start):
            own = [next(grams) for _ in of_prompt]
            kept: list[frozenset[int]] = []
            copies: set[int] = set()
            for at, one in enumerate(own):
                if any(_alike(one, other, least) for other in kept):
                    copies.add(at)
                else:
                    kept.append(one)
            if copies:
                yield number, copies


def _grams(texts: Sequence[str]) -> Iterator[frozenset[int]]:
    parts = shingles(pl.Series(texts, dtype=pl.String), NGRAM)
    for begin, end in zip(parts.starts[:-1], parts.starts[1:], strict=True):
        yield frozenset(parts.grams[begin:end].tolist())


def _alike(first: frozenset[int], second: frozenset[int], least: float) -> bool:
    shorter, longer = sorted((len(first), len(second)))
    if shorter == 0 or shorter < least * longer:  # two sets cannot share more than that
        return False
    shared = len(first & second)
    return shared >= least * (len(first) + len(second) - shared)
