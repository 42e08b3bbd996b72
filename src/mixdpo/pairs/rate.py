"""Answers rated by judges, each by itself or against the others to its prompt."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError, RunError
from mixdpo.generation.chat_model import Progress
from mixdpo.judges.judge import Judge
from mixdpo.judges.prompt import JudgePrompt, read_judge_prompt, shipped_prompt
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.comparing import compare_answers, game_items
from mixdpo.pairs.grading import grade_answers, grade_items
from mixdpo.pairs.judged import RAW_RATING, WIN_RATE, Judged, JudgedPrompt, is_judged, judged_prompts, own_columns
from mixdpo.pairs.put_together import put_together
from mixdpo.pairs.rating_report import rating_report
from mixdpo.pairs.rating_settings import RatingSettings

MOST_UNREAD: Final = 0.2
"""Share of a judge's verdicts that may be missing: with more, what is left is no picture of the answers."""


@dataclass(frozen=True)
class Rated:
    """Prompts whose answers have scores, and how they came to them.

    Attributes:
        prompts: as they were given, each answer with `score` and `ratings`, in `columns` also `raw_rating/JUDGE` where
            a judge's ratings were turned round or standardised, and `win_rate` where answers were compared.
        report: see `rating_report`.
    """

    prompts: list[AnsweredPrompt]
    report: dict[str, Any]


def rate(
    prompts: Sequence[AnsweredPrompt],
    judges: Sequence[Judge],
    settings: RatingSettings,
    progress: Callable[[str], Progress] | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> Rated:
    """Rate answers by one judge or several; ratings that answers have from other judges stay, and count too.

    Args:
        prompts: with their answers.
        judges: with names of their own.
        settings: how they rate.
        progress: from the name of a judge to what shows how far it is.
        earlier: what the report of an earlier rating says of its judges, in whose units they rated.

    Returns:
        Scores are means over all judges, of ratings in different or unknown units after these were standardised.

    Raises:
        InputError: there is nothing to rate, a judge comes twice, or a judge prompt cannot be used.
        RunError: more than a fifth of a judge's verdicts are missing or cannot be read.
    """
    kept, earlier = _to_judge(prompts, judges, settings), earlier or {}
    judged: dict[str, Judged] = {}
    for judge in judges:
        how = grade_answers if settings.mode == "grade" else compare_answers
        name = rating_name(judge)
        show = progress(name) if progress is not None else None
        judged[name] = how(judge, kept, judge_prompt_of(judge, settings), settings, show)
        _check_read(name, judged[name].record, judge.in_words)
    answers = [answer for prompt in kept for answer in prompt.answers]
    units = {name: record.get("unit") for name, record in earlier.items()}
    together = put_together(answers, judged, settings.lower_is_better, units)
    columns = {f"{RAW_RATING}{name}": values for name, values in together.raw.items()}
    if rates := [one.win_rates for one in judged.values() if one.win_rates is not None]:
        columns[WIN_RATE] = np.mean(rates, axis=0)
    rated = iter(_rated(answers, together.scores(), together.ratings, columns))
    scored = [
        replace(one, answers=tuple(next(rated) if is_judged(answer) else _unrated(answer) for answer in one.answers))
        for one in prompts
    ]
    report = rating_report(scored, settings, judged, together, earlier)
    return Rated(scored, report | {"replaced": sum(_is_replaced(answer, judged) for answer in answers)})


def estimates(prompts: Sequence[AnsweredPrompt], judges: Sequence[Judge], settings: RatingSettings) -> dict[str, str]:
    """Return, by the name of each judge, what rating would take.

    Raises:
        InputError: see `rate`.
    """
    kept = _to_judge(prompts, judges, settings)
    items = grade_items if settings.mode == "grade" else game_items
    return {
        rating_name(judge): judge.estimate(items(kept, judge_prompt_of(judge, settings), settings)) for judge in judges
    }


def rating_name(judge: Judge) -> str:
    """Return what columns call a judge: its name; of a model in a folder the last part of its path."""
    return Path(judge.name).name if os.path.isdir(judge.name) else judge.name  # a command may be no path at all


def _to_judge(
    prompts: Sequence[AnsweredPrompt], judges: Sequence[Judge], settings: RatingSettings
) -> list[JudgedPrompt]:
    """Return what is judged; `InputError` where there is nothing, or a judge comes twice."""
    names = [rating_name(judge) for judge in judges]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the judge {twice} is given twice", hint="name each judge once")
    kept = judged_prompts(prompts)
    if not any(prompt.answers for prompt in kept):
        raise InputError("there is nothing to rate: all answers are empty")
    if settings.mode == "pairwise" and all(len(prompt.texts) < 2 for prompt in kept):
        raise InputError("no prompt has two different answers to compare", hint="rate them with --mode grade")
    return kept


def judge_prompt_of(judge: Judge, settings: RatingSettings) -> JudgePrompt | None:
    """Return what a judge is asked in words, None for one that is not; the package's own where none is given.

    Raises:
        InputError: the judge prompt cannot be read.
    """
    if not judge.in_words:
        return None
    return read_judge_prompt(settings.judge_prompt) if settings.judge_prompt else shipped_prompt(settings.mode)


def _check_read(name: str, record: Mapping[str, Any], in_words: bool) -> None:
    """Raise `RunError` where too many verdicts are missing, with what to change for most of them."""
    first = next(iter(record["failed_calls"]), "")
    again = "give the same command again, which asks only for these"
    if first.startswith("no content"):  # at temperature 0 it is silent again
        again = "take another judge or --judge-prompt, or give the same command again, which asks only for these"
    missing = {
        "failed": (
            sum(record["failed_calls"].values()),
            f"{again}; the first failure: {first}",
        ),
        "hold no verdict that can be read": (
            record["unread_verdicts"],
            "let the judge prompt ask for a last line with nothing but the verdict, such as [[5]] or [[A]], raise "
            "--judge-max-tokens, or take another judge"
            if in_words
            else "let the program write a number and nothing else in each line, or of two answers A>B, A=B or B>A",
        ),
        "are off the scale": (
            record["off_scale"],
            "write the scale that the judge keeps to into the judge prompt, or take another judge"
            if in_words
            else "give the judge's scale with --scale LOW HIGH",
        ),
    }
    if sum(count for count, _ in missing.values()) > MOST_UNREAD * record["calls"]:
        counts = ", ".join(f"{count:,} {kind}" for kind, (count, _) in missing.items() if count)
        _, what_to_do = max(missing.values())
        raise RunError(f"of {record['calls']:,} verdicts of {name} {counts}; {what_to_do}")


def _rated(
    answers: Sequence[Answer], scores: np.ndarray, ratings: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
) -> list[Answer]:  # fmt: skip
    return [
        replace(
            answer,
            score=float(scores[row]),
            ratings={name: float(values[row]) for name, values in ratings.items()},
            columns=own_columns(answer)
            | {name: None if np.isnan(values[row]) else float(values[row]) for name, values in columns.items()},
        )
        for row, answer in enumerate(answers)
    ]


def _is_replaced(answer: Answer, judged: Mapping[str, Judged]) -> bool:
    """Whether what the file says of an answer is of no judge, or of one that judged it anew."""
    return any(name in judged for name in answer.ratings) or not (answer.ratings or math.isnan(answer.score))


def _unrated(answer: Answer) -> Answer:
    return replace(answer, score=math.nan, ratings={}, columns=own_columns(answer))
