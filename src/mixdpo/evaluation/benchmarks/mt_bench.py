"""MT-Bench with single grading: judge prompts, ratings out of judgements, and mean ratings.

80 questions of two turns; each turn is rated from 1 to 10 by itself, against reference answers in some categories.
Definitions: github.com/lm-sys/FastChat, commit 0e6d3e4bea, arXiv 2306.05685.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.files import digest
from mixdpo.common.statistics import both_ends, clustered_mean
from mixdpo.common.table_files import read_table
from mixdpo.common.tables import TextTable
from mixdpo.data.reasoning import split_reasoning
from mixdpo.evaluation.benchmark import (
    Column,
    JudgedBenchmark,
    MetricNames,
    Record,
    Scored,
    models_table,
    ranked_scores,
)
from mixdpo.evaluation.hub_files import HubFile, fetch
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.records import (
    answers_record,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.generation.answer_files import AnswerFile, read_answers
from mixdpo.judges.answers import AnswerSources, read_categories
from mixdpo.judges.judge import JudgeItem, Verdict
from mixdpo.judges.prompt import JudgePrompt, prompts_fingerprint
from mixdpo.judges.task import JudgeTask, Published

GRADING_PROMPTS: Final = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
LONGEST_JUDGEMENT: Final = 2048
PUBLISHED: Final = Published(
    ("gpt-4", "gpt-4-0314", "gpt-4-0613"),  # which of its snapshots rated what is not published
    80,
    {"judge_prompt": "53e3a1486f671e9c", "references": "c83f8f8419d81c2a", "max_tokens": LONGEST_JUDGEMENT},
)
_HUB: Final = ("lmsys/mt-bench", "main")
QUESTION_FILE: Final = HubFile(*_HUB, "data/mt_bench/question.jsonl", None, "--questions", "space")
REFERENCE_FILE: Final = HubFile(*_HUB, "data/mt_bench/reference_answer/gpt-4.jsonl", None, "--references", "space")
REFERENCE_CATEGORIES: Final = ("math", "reasoning", "coding")
"""Categories that are judged against a reference answer."""

_log = logging.getLogger(__name__)
FAILED: Final = -1.0
"""The stored score of a judgement without a rating."""

SCALE: Final = (0.0, 10.0)
"""What lies off it is no rating. A judge is asked to rate from 1 to 10; published means count the 0 it gave too."""
_RATING = re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]")
_LOOSE_RATING = re.compile(r"\[(\d+(?:\.\d*)?)\]")


def parse_rating(judgement: str) -> float | None:
    """Return the first `[[number]]` of a judgement, or else the first `[number]`; None if there is none on the scale.

    Reasoning before the judgement is not read.
    """
    _, judgement = split_reasoning(judgement)
    found = _RATING.search(judgement) or _LOOSE_RATING.search(judgement)
    rating = float(found.group(1)) if found else None
    return rating if rating is not None and SCALE[0] <= rating <= SCALE[1] else None


@dataclass(frozen=True, kw_only=True)
class MTBenchOptions:
    """What is read besides the answers or the verdicts."""

    questions: Path | None = field(
        default=None,
        metadata={"help": "the questions with their categories; default: the hub's, or of verdicts what they say"},
    )
    references: Path | None = field(
        default=None, metadata={"help": "reference answers; default: the hub's, of gpt-4", "judge_only": True}
    )
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


# ---- What a judge is asked ----


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
    table = read_table(path)
    for place, row in enumerate(table.rows()):
        if any(row.get(name) is None for name in ("question_id", "category", "turns")):
            raise InputError("a question needs question_id, category and turns", file=path, row=table.row_of(place))
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


def judge_values(question: Question, answer: Sequence[str], turn: int) -> dict[str, str]:
    """Return what the placeholders of the judge prompt stand for, about turn 1 or 2 of an answer.

    Raises:
        InputError: the answer or the question lacks that turn.
    """
    if min(len(answer), len(question.turns)) < turn:
        raise InputError(f"question {question.id} and its answer need {turn} turns")
    if turn == 1:
        values = {"question": question.turns[0], "answer": answer[0]}
    else:
        values = {f"question_{n}": question.turns[n - 1] for n in (1, 2)}
        values |= {f"answer_{n}": answer[n - 1] for n in (1, 2)}
    if question.references is not None:
        values |= {f"ref_answer_{n}": question.references[n - 1] for n in range(1, turn + 1)}
    return values


def references_fingerprint(questions: Sequence[Question]) -> str:
    """Return a digest of the reference answers and their questions' ids, which says in a result which were used."""
    return digest((part for one in questions if one.references for part in (one.id, *one.references)), size=8)


@dataclass(frozen=True)
class RatedTurn:
    """Turn 1 or 2 of the answer to a question, and what is asked about it."""

    question: Question
    turn: int
    item: JudgeItem


def rated_turns(
    answers: AnswerFile, questions: Sequence[Question], prompts: Mapping[str, JudgePrompt] | None, max_tokens: int
) -> list[RatedTurn]:
    """Return everything that is rated, all first turns before all second ones; without prompts for judges that are
    asked nothing in words.

    Raises:
        InputError: an answer lacks a turn or comes twice, a judge prompt is missing, or no question is answered.
    """
    turns = answers.turns_by_id()
    answered = [question for question in questions if question.id in turns]
    if not answered:
        raise InputError("no question is answered", file=answers.file, hint="its ids must be those of --questions")
    found = []
    for turn in (1, 2):
        for question in answered:
            given = turns[question.id]
            if len(given) < turn:
                raise InputError(
                    f"the answer to question {question.id} has {len(given)} turns of 2", file=answers.file,
                    hint="let mixdpo generate answer both turns",
                )  # fmt: skip
            chat = [("user", question.turns[0])]
            if turn == 2:
                chat += [("assistant", given[0]), ("user", question.turns[1])]
            request = None
            if prompts is not None:
                name = prompt_name(question, turn)
                if name not in prompts:
                    raise InputError(f"the judge prompt {name} is missing")
                request = prompts[name].request(judge_values(question, given, turn), max_tokens=max_tokens)
            found.append(RatedTurn(question, turn, JudgeItem(tuple(chat), (given[turn - 1],), request)))
    return found


def rating_rows(
    model: str, rated: Sequence[RatedTurn], verdicts: Sequence[Verdict], in_words: bool
) -> list[dict[str, Any]]:
    """Return judgements as `read_ratings` reads them; `in_words` says whether a language model wrote them."""
    return [
        {
            "question_id": one.question.id,
            "category": one.question.category,
            "model": model,
            "turn": one.turn,
            **({"judgment": verdict.reply.text} if in_words else {}),
            "score": verdict.score,
            "failure": verdict.reply.failure,
            "prompt": one.item.chat[-1][1],
            "answer": one.item.answers[0],
        }
        for one, verdict in zip(rated, verdicts, strict=True)
    ]


def judge_task(sources: AnswerSources, options: MTBenchOptions) -> JudgeTask:
    """Rate both turns; a judge that is asked in words has a judge prompt.

    Raises:
        InputError: see `read_questions` and `rated_turns`.
    """
    questions = read_questions(options.questions or fetch(QUESTION_FILE), options.references or fetch(REFERENCE_FILE))
    references = references_fingerprint(questions)
    questions = questions[: sources.limit]
    prompts = read_judge_prompts(sources.judge_prompt) if sources.judge_prompt is not None else None
    longest = sources.max_tokens or LONGEST_JUDGEMENT
    rated = {file.name: rated_turns(file, questions, prompts, longest) for file in sources.answers}
    fingerprint = None
    if prompts is not None:
        fingerprint = prompts_fingerprint(prompts[name] for name in GRADING_PROMPTS if name in prompts)
    return JudgeTask(
        items={model: [one.item for one in own] for model, own in rated.items()},
        parse=lambda reply: parse_rating(reply.text),
        rows=lambda model, verdicts: rating_rows(model, rated[model], verdicts, prompts is not None),
        prompts={model: len(own) // 2 for model, own in rated.items()},
        settings={
            "judge_prompt": fingerprint,
            "references": references,
            "max_tokens": longest if prompts is not None else None,
            "limit": sources.limit,
        },
        published=PUBLISHED,
        reasoning=sources.reasoning(),
    )


# ---- What verdicts come to ----


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

    Overall is the mean of all ratings, not of the two turns, and those of a turn that was rated several times count
    each, as in the original; how many there are too many is `n_repeated`. The interval resamples questions.

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
    overall = clustered_mean(score, question, rng=np.random.default_rng(seed), level=level, scale=SCALE)
    result: dict[str, Any] = {
        "average": overall.estimate,
        "interval": both_ends(overall),
        "first_turn": _mean(score[turn == 1]),
        "second_turn": _mean(score[turn == 2]),
        "n": len(ratings.score),
        "n_error": int((~known).sum()),
    }
    repeated = len(ratings.score) - len(set(zip(ratings.question.tolist(), ratings.turn.tolist(), strict=True)))
    if repeated:
        result["n_repeated"] = repeated
    kinds = np.array([categories.get(id, "") for id in question])
    named = sorted(set(kinds.tolist()) - {""})
    if named:
        result["categories"] = {name: _mean(score[kinds == name]) for name in named}
    return result


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def items(verdicts: Sequence[Path], options: MTBenchOptions | None = None) -> dict[str, ModelItems]:
    """Return the mean rating of each question's turns; a question weighs as much as it has ratings."""
    texts = read_transcripts([read_table(file) for file in verdicts])
    found = {}
    for file in verdicts:
        for model, ratings in read_ratings(file).items():
            known = np.isfinite(ratings.score)
            ids, position, counts = np.unique(ratings.question[known], return_inverse=True, return_counts=True)
            means = np.bincount(position, weights=ratings.score[known]) / counts
            keys = list(map(str, ids.tolist()))
            found[model] = ModelItems(
                {"average": dict(zip(keys, means.tolist(), strict=True))},
                texts[model],
                weights=dict(zip(keys, map(float, counts), strict=True)),
            )
    return found


def score(verdicts: Sequence[Path], options: MTBenchOptions, run: Record | None = None) -> Scored:
    """Average judgements, by turn and, where the questions or the verdicts say it, by category."""
    (file,) = verdicts
    table = read_table(file)
    if options.questions is not None and run is None:  # verdicts of a run have the categories
        categories = read_categories(options.questions)
    else:
        named = table.columns.get("category", [])
        categories = dict(zip(table.ids("question_id"), named, strict=True)) if named else {}
    ratings = read_ratings(file)
    read = {model: own for model, own in ratings.items() if np.isfinite(own.score).any()} or ratings
    for model in ratings.keys() - read.keys():
        _log.warning("%s has no judgement with a rating, and is left out", model)
    models = {model: mean_ratings(own, categories, seed=options.seed) for model, own in read.items()}
    for model, record in models.items():
        if repeated := record.get("n_repeated"):
            _log.warning("%s: %d of %d ratings are of a turn that was rated before", model, repeated, record["n"])
    found = {model: own for model, own in items(verdicts).items() if model in models}
    scores = {model: own.scores["average"] for model, own in found.items()}
    for model, judged in judged_answers(table).items():
        if model in models:
            models[model] |= answers_record(judged, scores[model])
    return Scored(
        models=models,
        items=found,
        settings={"seed": options.seed},
        others={
            "differences": difference_records(ranked_scores(models, scores), options.seed),
            **reasoning_record(table),
        },
    )


def _table(record: Record) -> TextTable:
    columns = [
        Column.number("rating", "average"),
        Column.interval("95 % interval", "interval", 2),
        Column.number("turn 1", "first_turn"),
        Column.number("turn 2", "second_turn"),
        Column.count("ratings", "n"),
        Column.count("unread", "n_error"),
    ]
    return models_table("MT-Bench, single grading", record, "average", columns)


BENCHMARK: Final = JudgedBenchmark(
    help="MT-Bench: mean ratings by turn and by category, single grading.",
    stored_as=("mt_bench",),
    options=MTBenchOptions,
    metrics=MetricNames(
        headlines=("average",),
        labels={"average": "rating", "first_turn": "turn 1", "second_turn": "turn 2"},
        shown=("first_turn", "second_turn"),
    ),
    table=_table,
    judge_prompt="judge_prompts.jsonl of github.com/lm-sys/FastChat (fastchat/llm_judge/data)",
    task=judge_task,
    score=score,
    items=items,
)
