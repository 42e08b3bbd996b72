"""How a model's answers to prompts compare with those of other models to the same prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from mixdpo.generation.chat_model import Progress
from mixdpo.generation.prompts import Prompt
from mixdpo.judges.judge import Judge
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.comparing import game_items
from mixdpo.pairs.grading import grade_items
from mixdpo.pairs.judged import WIN_RATE, judged_prompts
from mixdpo.pairs.rate import judge_prompt_of, rate, rating_name
from mixdpo.pairs.rating_settings import RatingSettings

NEWEST: Final = "newest"
"""What the answers of the model that is compared are called among those of the others."""
PREFERRED: Final = "preferred/"
RATING: Final = "rating/"

ShowProgress = Callable[[str], Progress]


@dataclass
class Compared:
    """How a model's answers compare.

    Attributes:
        rows: of each prompt its id; `preferred/NAME`, the mean over judges of 1, 0.5 or 0 against each other model,
            None where an answer or a verdict is missing; and, where every judge rates, `rating/NAME` of the answers of
            each.
        verdicts: that judges were asked for.
        failed: of these, those that did not come.
        unread: those that hold no verdict, or one off the scale.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    verdicts: int = 0
    failed: int = 0
    unread: int = 0

    def count(self, report: Mapping[str, Any], judges: Sequence[Judge]) -> None:
        """Add what a report of `rate` says of judges."""
        for one in (report["judges"][rating_name(judge)] for judge in judges):
            self.verdicts += one["calls"]
            self.failed += sum(one["failed_calls"].values())
            self.unread += one["unread_verdicts"] + one["off_scale"]


def in_order_of(prompts: Sequence[Prompt], given: Sequence[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """Return the answers to each prompt as a file of them was read, none where the file has none."""
    found = {(one.id, one.chat): one.answers for one in given}
    return [answered(prompt, found.get((prompt.id, prompt.messages), ())) for prompt in prompts]


def answered(prompt: Prompt, answers: Sequence[Answer]) -> AnsweredPrompt:
    """Return a prompt with answers to it."""
    return AnsweredPrompt(prompt.id, prompt.id_column, prompt.messages, tuple(answers))


def compare_models(
    newest: Sequence[AnsweredPrompt],
    others: Mapping[str, Sequence[AnsweredPrompt]],
    judges: Sequence[Judge],
    settings: RatingSettings,
    progress: ShowProgress | None = None,
) -> Compared:
    """Let judges compare a model's answers with those of others to the same prompts.

    A judge that is asked in words, or any in the mode pairwise, sees each two answers in both orders. Other judges
    rate all answers, and the higher rating is preferred. Equal texts are a tie, and an empty one loses.

    Args:
        newest: one answer to a prompt at most.
        others: by name, the answers of other models to the same prompts in the same order.
        judges: who compares.
        settings: how.
        progress: see `rate`.

    Raises:
        InputError: see `rate`.
        RunError: see `rate`.
    """
    compared = Compared([{prompt.id_column: prompt.id} for prompt in newest])
    comparing = [judge for judge in judges if judge.in_words or settings.mode == "pairwise"]
    rating = [judge for judge in judges if judge not in comparing]
    by_judge: dict[str, list[np.ndarray]] = {
        name: [_wins(newest, answers, judge, settings, progress, compared) for judge in comparing]
        for name, answers in others.items()
    }
    if rating:
        done = rate(_together({NEWEST: newest, **others}), rating, settings, progress)
        compared.count(done.report, rating)
        rated = done.prompts
        for judge in rating:
            own, *theirs = (_values(rated, name, _rating_of(judge)) for name in (NEWEST, *others))
            for name, other in zip(others, theirs, strict=True):
                by_judge[name].append(preferred(own, other))
        if not comparing:
            for name in (NEWEST, *others):
                _fill(compared.rows, RATING + name, _values(rated, name, lambda answer: answer.score))
    for name, answers in others.items():
        settled = settled_by_text(newest, answers)
        _fill(compared.rows, PREFERRED + name, np.where(np.isnan(settled), np.mean(by_judge[name], axis=0), settled))
    return compared


def ask_once(prompt: AnsweredPrompt, judge: Judge, settings: RatingSettings) -> None:
    """Ask a judge about the answers to one prompt as `compare_models` does, whatever it says of them.

    Raises:
        InputError: the judge cannot be asked.
        RunError: it does not answer.
    """
    items = grade_items
    if judge.in_words or settings.mode == "pairwise":
        items, settings = game_items, _in_both_orders(settings)
    judge.judge(items(judged_prompts([prompt]), judge_prompt_of(judge, settings), settings), lambda reply: None)


def _wins(
    newest: Sequence[AnsweredPrompt],
    answers: Sequence[AnsweredPrompt],
    judge: Judge,
    settings: RatingSettings,
    progress: ShowProgress | None,
    counts: Compared,
) -> np.ndarray:
    """Return the share of both games that each newest answer wins, ties half; NaN where texts need no judge."""
    both = _together({NEWEST: newest, "other": answers})
    played = [
        number for number, of_text in enumerate(settled_by_text(newest, answers))
        if math.isnan(of_text) and len(both[number].answers) == 2
    ]  # fmt: skip
    wins = np.full(len(both), np.nan)
    if played:
        done = rate([both[number] for number in played], [judge], _in_both_orders(settings), progress)
        counts.count(done.report, [judge])
        wins[played] = _values(done.prompts, NEWEST, lambda answer: answer.columns.get(WIN_RATE))
    return wins


def preferred(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1 where the first rating is the higher one, 0.5 for equal ones, 0 else, NaN where one is; shape (N,)."""
    return np.where(np.isnan(first) | np.isnan(second), np.nan, (1 + np.sign(first - second)) / 2)


def settled_by_text(first: Sequence[AnsweredPrompt], second: Sequence[AnsweredPrompt]) -> np.ndarray:
    """Return the preferences that need no judge: 0.5 for equal texts, 1 or 0 where one of two is empty; else NaN."""
    return np.array([_settled(one.answers, other.answers) for one, other in zip(first, second, strict=True)])


def _settled(first: Sequence[Answer], second: Sequence[Answer]) -> float:
    if not first or not second:
        return math.nan
    texts = first[0].text.strip(), second[0].text.strip()
    if texts[0] == texts[1]:
        return 0.5
    return math.nan if all(texts) else float(bool(texts[0]))


def _together(by_name: Mapping[str, Sequence[AnsweredPrompt]]) -> list[AnsweredPrompt]:
    """Return each prompt with the answers of all, which carry the names given here."""
    return [
        replace(
            same[0],
            answers=tuple(
                replace(answer, model=name, score=math.nan, ratings={})
                for name, prompt in zip(by_name, same, strict=True)
                for answer in prompt.answers
            ),
        )
        for same in zip(*by_name.values(), strict=True)
    ]


def _in_both_orders(settings: RatingSettings) -> RatingSettings:
    """Return the settings of comparisons; a judge prompt that asks for grades does not ask for these."""
    return settings if settings.mode == "pairwise" else RatingSettings(mode="pairwise", max_tokens=settings.max_tokens)


def _rating_of(judge: Judge) -> Callable[[Answer], float | None]:
    return lambda answer: answer.ratings.get(rating_name(judge))


def _values(prompts: Sequence[AnsweredPrompt], name: str, of: Callable[[Answer], float | None]) -> np.ndarray:
    """Return a value of the answer of that name to each prompt, float64, NaN where there is none; shape (N,)."""
    found = [next((of(answer) for answer in prompt.answers if answer.model == name), None) for prompt in prompts]
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _fill(rows: Sequence[dict[str, Any]], key: str, values: np.ndarray) -> None:
    for row, value in zip(rows, values.tolist(), strict=True):
        row[key] = None if math.isnan(value) else value
