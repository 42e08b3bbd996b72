"""MT-Bench with single grading: judge prompts, ratings out of judgements, and mean ratings.

80 questions of two turns; each turn is rated from 1 to 10 by itself, against reference answers in some categories.
Definitions: github.com/lm-sys/FastChat, commit 0e6d3e4bea, arXiv 2306.05685.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import clustered_mean
from mixdpo.common.table_files import read_table
from mixdpo.generation.answer_files import read_answers
from mixdpo.judges.prompt import JudgePrompt

REFERENCE_CATEGORIES: Final = ("math", "reasoning", "coding")
"""Categories that are judged against a reference answer."""

FAILED: Final = -1.0
"""The stored score of a judgement without a rating."""

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_LOOSE_RATING = re.compile(r"\[(\d+\.?\d*)\]")


def parse_rating(judgement: str) -> float | None:
    """Return the first `[[number]]` of a judgement, or else the first `[number]`, or None."""
    found = _RATING.search(judgement) or _LOOSE_RATING.search(judgement)
    return float(found.group(1)) if found else None


@dataclass(frozen=True)
class Question:
    """A question of two turns, with the reference answers of both where there are any."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] | None


def read_questions(path: str | Path, references: str | Path | None = None) -> list[Question]:
    """Read `question.jsonl` and the reference answers, in the original's layout.

    Raises:
        InputError: a field is missing, or a question that needs a reference has none.
    """
    answers: dict[str, tuple[str, ...]] = {}
    if references is not None:
        answers = read_answers(references).turns_by_id()
    questions = []
    for number, row in enumerate(read_table(path).rows(), start=1):
        if any(row.get(name) is None for name in ("question_id", "category", "turns")):
            raise InputError("a question needs question_id, category and turns", file=path, row=number)
        id = str(row["question_id"])
        if row["category"] in REFERENCE_CATEGORIES and id not in answers:
            raise InputError(
                f"question {id} ({row['category']}) needs a reference answer",
                file=references,
                hint="give --references",
            )
        reference = answers.get(id) if row["category"] in REFERENCE_CATEGORIES else None
        questions.append(Question(id, row["category"], tuple(row["turns"]), reference))
    return questions


def read_categories(path: str | Path) -> dict[str, str]:
    """Read the category of every question id."""
    table = read_table(path)
    return dict(zip(table.ids("question_id", "uid"), table.texts("category"), strict=True))


def read_judge_prompts(path: str | Path) -> dict[str, JudgePrompt]:
    """Read `judge_prompts.jsonl`, by name.

    Raises:
        InputError: there is no such file, or a prompt lacks a field.
    """
    table = read_table(path)
    columns = (table.texts("system_prompt"), table.texts("prompt_template"))
    prompts = [
        JudgePrompt((("system", system), ("user", template))) for system, template in zip(*columns, strict=True)
    ]
    return dict(zip(table.texts("name"), prompts, strict=True))


def prompt_name(question: Question, turn: int) -> str:
    """Return the name of the judge prompt for turn 1 or 2 of a question."""
    kind = "single-math-v1" if question.references is not None else "single-v1"
    return kind if turn == 1 else f"{kind}-multi-turn"


def judge_messages(
    question: Question, answer: Sequence[str], turn: int, prompts: Mapping[str, JudgePrompt]
) -> tuple[tuple[str, str], ...]:
    """Return what the judge is asked about turn 1 or 2 of an answer, (role, content) of each message.

    Raises:
        InputError: the answer or the question lacks that turn, or there is no such judge prompt.
    """
    name = prompt_name(question, turn)
    if name not in prompts:
        raise InputError(f"the judge prompt {name} is missing")
    if min(len(answer), len(question.turns)) < turn:
        raise InputError(f"question {question.id} and its answer need {turn} turns")
    if turn == 1:
        values = {"question": question.turns[0], "answer": answer[0]}
    else:
        values = {f"question_{n}": question.turns[n - 1] for n in (1, 2)}
        values |= {f"answer_{n}": answer[n - 1] for n in (1, 2)}
    if question.references is not None:
        values |= {f"ref_answer_{n}": question.references[n - 1] for n in range(1, turn + 1)}
    return prompts[name].filled(values)


@dataclass(frozen=True)
class Ratings:
    """One model's ratings; arrays of shape (judgements,), NaN where there is none."""

    question: np.ndarray
    turn: np.ndarray
    score: np.ndarray


def read_ratings(path: str | Path) -> dict[str, Ratings]:
    """Read judgements: `model`, `question_id`, `turn`, and `judgment` (the text) or `score` (-1 for none).

    A stored text is read again, so that the rating does not depend on who stored it. Where a column `failure` says
    why there is none, -1 is a score like any other, as reward models give.
    """
    table = read_table(path)
    models = np.array(table.texts("model"))
    questions, turns = np.array(table.ids("question_id")), table.integers("turn")
    if "judgment" in table:
        parsed = [parse_rating(text or "") for text in table.column("judgment")]
        scores = np.array([np.nan if score is None else score for score in parsed])
    else:
        scores = table.numbers("score")
        if "failure" not in table:
            scores[scores == FAILED] = np.nan
    return {
        model: Ratings(questions[own], turns[own], scores[own])
        for model in dict.fromkeys(models.tolist())
        if (own := models == model).any()
    }


def mean_ratings(
    ratings: Ratings, categories: Mapping[str, str], *, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Return the mean rating overall, by turn and by category; judgements without a rating are left out and counted.

    Overall is the mean of all ratings, not of the two turns. The interval resamples questions.

    Args:
        ratings: one model's.
        categories: of each question id; empty for none.
        seed: of the resamples.
        level: of the interval.

    Raises:
        InputError: no judgement has a rating.
    """
    known = np.isfinite(ratings.score)
    if not known.any():
        raise InputError("no judgement has a rating")
    question, turn, score = ratings.question[known], ratings.turn[known], ratings.score[known]
    overall = clustered_mean(score, question, rng=np.random.default_rng(seed), level=level)
    result: dict[str, Any] = {
        "average": overall.estimate,
        "interval": [overall.low, overall.high],
        "first_turn": _mean(score[turn == 1]),
        "second_turn": _mean(score[turn == 2]),
        "n": len(ratings.score),
        "n_error": int((~known).sum()),
    }
    kinds = np.array([categories.get(id, "") for id in question])
    named = sorted(set(kinds.tolist()) - {""})
    if named:
        result["categories"] = {name: _mean(score[kinds == name]) for name in named}
    return result


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
