"""Several scored answers to a prompt in one row, as UltraFeedback, distilabel, Nectar and SimPO keep them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from datasets import Features, Json, LargeList, List, Value

from mixdpo.data.data_settings import DataSettings, PairRule
from mixdpo.data.messages import kind_of
from mixdpo.data.prompts import DropPair
from mixdpo.data.views import Row, ViewFault

PROMPTS: Final = ("prompt", "instruction", "question", "query", "input")
ANSWERS: Final = (
    *("completions", "generations", "responses", "answers", "candidates", "outputs", "all_generated_responses"),
)
SCORE_LISTS: Final = ("ratings", "rating", "scores", "rewards", "all_rm_scores")
MODEL_LISTS: Final = ("generation_models", "model_names", "models", "generators", "model_name", "generator", "model")
TEXT_KEYS: Final = ("response", "text", "completion", "content", "answer", "output", "generation")
MODEL_KEYS: Final = ("model", "model_name", "generator", "model_id")
SCORE_KEYS: Final = ("fine-grained_score", "overall_score", "score", "rating", "reward")
"""UltraFeedback's mean of the aspects comes before its overall score, of which about 2,000 are 10 for 1."""
RANK_KEY: Final = "rank"
RANK_LISTS: Final = ("rank", "ranks")
"""The best answer has the smallest."""

Pair = tuple[int, int]
"""Which of several answers are chosen and rejected, from 0."""


@dataclass(frozen=True)
class ScoredAnswer:
    """One of the answers in a row: text or messages; larger scores are better, NaN where there is none."""

    answer: Any
    score: float
    model: str | None = None


def choose_pairs(
    scores: Sequence[float], rule: PairRule, rng: random.Random, among: Sequence[Pair] | None = None
) -> list[Pair]:
    """Return which answers (chosen, rejected) become pairs; never two of equal score.

    Args:
        scores: of the answers to one prompt, finite, higher is better.
        rule: `best_vs_random`: the best against a random one below it; `best_vs_worst`; `all`: every two. Of equally
            good ones the first is the best or the worst.
        rng: draws the random one.
        among: pairs of `ordered_pairs` that are allowed; default: all.
    """
    allowed = [(a, b) for a, b in (ordered_pairs(scores) if among is None else among) if scores[a] > scores[b]]
    if rule == "all":
        return allowed
    best = best_answer(scores)
    below = sorted(b for a, b in allowed if a == best)
    if not below:
        return []
    return [(best, min(below, key=lambda answer: scores[answer]) if rule == "best_vs_worst" else rng.choice(below))]


def ordered_pairs(scores: Sequence[float]) -> list[Pair]:
    """Return every two answers, the better one first; of equally good ones that which comes first."""
    return [(a, b) if scores[a] >= scores[b] else (b, a) for a, b in combinations(range(len(scores)), 2)]


def best_answer(scores: Sequence[float]) -> int:
    """Return the first of the best answers; -1 if there are none."""
    return max(range(len(scores)), key=lambda answer: scores[answer], default=-1)


def scored_answers(row: Row, score_key: str | None = None) -> list[ScoredAnswer]:
    """Return the answers in a row with their scores.

    Args:
        row: by column, with lists as lists.
        score_key: under which the scores of answers that are objects stand; default: the row's own `score_key_of`.

    Raises:
        ViewFault: the answers are no list, or there is not one score for each.
    """
    name = first_there(ANSWERS, row)
    answers = row[name] or []
    if not isinstance(answers, list):
        raise ViewFault(name, f"is {kind_of(answers)}, not a list of answers")
    if answers and isinstance(answers[0], Mapping) and not _is_message(answers[0]):
        key = score_key or score_key_of(answers)
        return [_of_object(item, key, name) for item in answers]
    scores_name = first_there((*SCORE_LISTS, *RANK_LISTS), row)
    sign = -1 if scores_name in RANK_LISTS else 1
    scores = row.get(scores_name) or [None] * len(answers)  # distilabel's is null where its judge could not be read
    if not isinstance(scores, list) or len(scores) != len(answers):
        raise ViewFault(scores_name, f"is not a list of {len(answers)} scores, one for each of {name!r}")
    models = _models(row, len(answers))
    return [
        ScoredAnswer(answer, sign * read_score(score, scores_name), model)
        for score, answer, model in zip(scores, answers, models, strict=True)
    ]


def score_key_of(answers: Iterable[Any]) -> str:
    """Return the one key under which answers that are objects have their scores, so that no two scales are mixed."""
    there = [item for item in answers if isinstance(item, Mapping)]
    return next((key for key in SCORE_KEYS if any(item.get(key) is not None for item in there)), RANK_KEY)


def read_score(value: Any, column: str) -> float:
    """Return a score, NaN for null, text that is no number ("N/A") and whole numbers beyond those of floats.

    Raises:
        ViewFault: it is of another type.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ViewFault(column, f"has {kind_of(value)} as a score, not a number")
    try:
        return float(value)
    except (ValueError, OverflowError):  # a word, or a whole number larger than any float
        return math.nan


def first_there(names: Iterable[str], there: Mapping[str, Any]) -> str:
    """Return the first of `names` that is there, empty if none is."""
    return next((name for name in names if name in there), "")


def _of_object(item: Any, key: str, column: str) -> ScoredAnswer:
    if not isinstance(item, Mapping) or not (text_key := first_there(TEXT_KEYS, item)):
        raise ViewFault(column, f"has an answer without a text (one of {', '.join(TEXT_KEYS)})")
    score = read_score(item.get(key), column)
    model = next((item[name] for name in MODEL_KEYS if isinstance(item.get(name), str)), None)
    return ScoredAnswer(item[text_key], -score if key == RANK_KEY else score, model)


def _models(row: Row, answers: int) -> list[str | None]:
    name = first_there(MODEL_LISTS, row)
    value = row.get(name)
    if isinstance(value, list) and len(value) == answers:
        return [one if isinstance(one, str) else None for one in value]
    return [value if isinstance(value, str) else None] * answers


def _is_message(item: Mapping[str, Any]) -> bool:
    return not item.keys().isdisjoint(("role", "from"))


# The layout of data whose rows have several scored answers


def ranked_pairs(row: Row, data: DataSettings) -> list[dict[str, Any]]:
    """Return the pairs of a row by `pair_rule`; raises `DropPair` where no two answers have different scores."""
    answers = [one for one in scored_answers(row) if one.answer and math.isfinite(one.score)]
    prompt = row[first_there(PROMPTS, row)]
    # The draw belongs to the prompt: another order of the rows, or a part of them, gives the same pairs.
    found = choose_pairs([one.score for one in answers], data.pair_rule, random.Random(f"{data.seed} {prompt}"))
    if not found:
        raise DropPair("no_ranking")
    return [
        {
            "prompt": prompt,
            "chosen": answers[first].answer,
            "rejected": answers[second].answer,
            "score_chosen": answers[first].score,
            "score_rejected": answers[second].score,
        }
        for first, second in found
    ]


def is_ranked(features: Features) -> bool:
    """Whether rows of these columns have several scored answers."""
    name = first_there(ANSWERS, features)
    if not name or not first_there(PROMPTS, features) or not isinstance(features[name], (List, LargeList)):
        return False
    element = features[name].feature
    if isinstance(element, Json):  # objects of several types, which only the rows show
        return True
    if isinstance(element, dict) and not _is_message(element):
        return bool(first_there(TEXT_KEYS, element) and first_there((*SCORE_KEYS, RANK_KEY), element))
    scores = first_there((*SCORE_LISTS, *RANK_LISTS), features)
    return bool(scores) and isinstance(features[scores], (List, LargeList))


def ranked_columns(features: Features) -> dict[str, Any]:
    """Return the types of the columns that `ranked_pairs` makes."""
    element = features[first_there(ANSWERS, features)].feature
    answer = element[first_there(TEXT_KEYS, element)] if isinstance(element, dict) else element
    prompt = features[first_there(PROMPTS, features)]
    scores = dict.fromkeys(("score_chosen", "score_rejected"), Value("float64"))
    return {"prompt": prompt, "chosen": answer, "rejected": answer, **scores}


def ranked_reads(features: Features) -> tuple[str, ...]:
    """Return the columns that `ranked_pairs` reads."""
    return tuple(first_there(names, features) for names in (PROMPTS, ANSWERS, (*SCORE_LISTS, *RANK_LISTS)))
