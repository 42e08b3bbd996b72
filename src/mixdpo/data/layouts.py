"""The layouts of preference data that other projects write, and how each becomes pairs: the table `LAYOUTS`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Protocol

from datasets import Features, Json, LargeList, List, Value

from mixdpo.data.columns import is_text
from mixdpo.data.data_settings import PairRule
from mixdpo.data.duels import TURNS, duel_columns, duel_pairs, duel_reads, is_duel, turns_columns, turns_pairs
from mixdpo.data.messages import kind_of
from mixdpo.data.prompts import DropPair
from mixdpo.data.views import Row, View, ViewFault


class PairsOfRow(Protocol):
    """What makes rows of pairs of a row; raises `ViewFault` or `DropPair`."""

    def __call__(self, row: Row, rule: PairRule, seed: int) -> list[dict[str, Any]]:
        """Return them in the order of the row's answers."""


Answers = list[tuple[float, Any]]
"""Answers to one prompt with their scores, in the order of the row."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of keeping preferences.

    Attributes:
        name: of the layout, for reports.
        fits: whether columns are of this layout.
        columns: what the keys of `columns` are in it, as far as the data has these columns.
        reads: the columns that `pairs` reads.
        pairs: from a row, the rule and a seed to rows with the columns `made`; None if `columns` says it all.
        made: types of the columns that `pairs` adds.
        by_rule: whether a row has several answers, of which the rule says which become pairs.
        refusal: what to do with data that cannot become pairs.
    """

    name: str
    fits: Callable[[Features], bool]
    columns: Mapping[str, str] = field(default_factory=dict)
    reads: Callable[[Features], tuple[str, ...]] = lambda features: ()
    pairs: PairsOfRow | None = None
    made: Callable[[Features], dict[str, Any]] = lambda features: {}
    by_rule: bool = False
    refusal: str | None = None


def find_layout(features: Features) -> Layout | None:
    """Return the layout of data with these columns, None if it is the plain one (prompt, chosen, rejected)."""
    return next((layout for layout in LAYOUTS if layout.fits(features)), None)


def view_layout(layout: Layout, features: Features, rule: PairRule, seed: int) -> View | None:
    """Return a view of data of a layout in which the pairs are, None if renamed columns are enough."""
    if layout.pairs is None:
        return None
    of_row = layout.pairs
    return View(
        name=f"{layout.name} by {rule} with seed {seed}",
        features=Features({**features, **layout.made(features)}),
        rows=lambda row: [{**row, **made} for made in of_row(row, rule, seed)],
        reads=layout.reads(features),
    )


# Several answers with scores

_PROMPTS: Final = ("prompt", "instruction", "question", "query", "input")
_ANSWERS: Final = ("completions", "generations", "responses", "answers", "candidates")
_SCORE_LISTS: Final = ("ratings", "rating", "scores", "rewards")
_TEXT_KEYS: Final = ("response", "text", "completion", "content", "answer", "output", "generation")
_SCORE_KEYS: Final = ("overall_score", "fine-grained_score", "score", "rating", "reward")
_RANK_KEY: Final = "rank"

LISTS: Final = (*_ANSWERS, *_SCORE_LISTS, "messages", "rejected_messages", "input")
"""Columns of lists and objects that a table of texts, such as CSV, keeps as JSON or as Python prints them."""


def choose_pairs(answers: Answers, rule: PairRule, rng: random.Random) -> list[tuple[int, int]]:
    """Return which answers (chosen, rejected) become pairs; never two of equal score.

    Args:
        answers: with finite scores, higher is better.
        rule: `best_vs_random`: the best against a random one below it; `best_vs_worst`; `all`: every two. Of equally
            good ones the first is the best or the worst.
        rng: draws the random one.
    """
    scores = [score for score, _ in answers]
    if len(set(scores)) < 2:
        return []
    if rule == "all":
        ordered = ((a, b) if scores[a] > scores[b] else (b, a) for a, b in combinations(range(len(scores)), 2))
        return [(a, b) for a, b in ordered if scores[a] != scores[b]]
    best = scores.index(max(scores))
    below = [at for at, score in enumerate(scores) if score < scores[best]]
    return [(best, scores.index(min(scores)) if rule == "best_vs_worst" else rng.choice(below))]


def _ranked_pairs(row: Row, rule: PairRule, seed: int) -> list[dict[str, Any]]:
    answers = [(score, answer) for score, answer in _scored_answers(row) if answer and math.isfinite(score)]
    prompt = row[_present(_PROMPTS, row)]
    # The draw belongs to the prompt: another order of the rows, or a part of them, gives the same pairs.
    found = choose_pairs(answers, rule, random.Random(f"{seed} {prompt}"))
    if not found:
        raise DropPair("no_ranking")
    return [
        {
            "prompt": prompt,
            "chosen": answers[first][1],
            "rejected": answers[second][1],
            "score_chosen": answers[first][0],
            "score_rejected": answers[second][0],
        }
        for first, second in found
    ]


def _scored_answers(row: Row) -> Answers:
    name = _present(_ANSWERS, row)
    answers = row[name] or []
    if not isinstance(answers, list):
        raise ViewFault(name, f"is {kind_of(answers)}, not a list of answers")
    if answers and isinstance(answers[0], Mapping) and not _is_message(answers[0]):
        return [_scored_answer(item, name) for item in answers]
    scores_name = _present(_SCORE_LISTS, row)
    if not scores_name:
        raise ViewFault(name, f"has no scores, and there is no column of them (one of {', '.join(_SCORE_LISTS)})")
    scores = row[scores_name] or []
    if not isinstance(scores, list) or len(scores) != len(answers):
        raise ViewFault(scores_name, f"is not a list of {len(answers)} scores, one for each of {name!r}")
    return [(_score(score, scores_name), answer) for score, answer in zip(scores, answers, strict=True)]


def _scored_answer(item: Any, column: str) -> tuple[float, Any]:
    if not isinstance(item, Mapping) or not (text_key := _present(_TEXT_KEYS, item)):
        raise ViewFault(column, f"has an answer without a text (one of {', '.join(_TEXT_KEYS)})")
    key = next((key for key in _SCORE_KEYS if item.get(key) is not None), None)
    if key is None:
        return -_score(item.get(_RANK_KEY), column), item[text_key]
    return _score(item[key], column), item[text_key]


def _score(value: Any, column: str) -> float:
    """Return a score, NaN for null and for text that is no number ("N/A")."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ViewFault(column, f"has {kind_of(value)} as a score, not a number")
    try:
        return float(value)
    except ValueError:
        return math.nan


def _is_ranked(features: Features) -> bool:
    name = _present(_ANSWERS, features)
    if not name or not _present(_PROMPTS, features) or not isinstance(features[name], (List, LargeList)):
        return False
    element = features[name].feature
    if isinstance(element, Json):  # objects of several types, which only the rows show
        return True
    if isinstance(element, dict) and not _is_message(element):
        return bool(_present(_TEXT_KEYS, element) and _present((*_SCORE_KEYS, _RANK_KEY), element))
    scores = _present(_SCORE_LISTS, features)
    return bool(scores) and isinstance(features[scores], (List, LargeList))


def _ranked_columns(features: Features) -> dict[str, Any]:
    element = features[_present(_ANSWERS, features)].feature
    answer = element[_present(_TEXT_KEYS, element)] if isinstance(element, dict) else element
    prompt = features[_present(_PROMPTS, features)]
    scores = dict.fromkeys(("score_chosen", "score_rejected"), Value("float64"))
    return {"prompt": prompt, "chosen": answer, "rejected": answer, **scores}


# A conversation and another answer to it


def _replaced_pairs(row: Row, rule: PairRule, seed: int) -> list[dict[str, Any]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise ViewFault("messages", f"is {kind_of(messages)}, not a list of messages")
    return [{"prompt": messages[:-1], "chosen": messages[-1:], "rejected": row["rejected_response"]}]


def _replaced_columns(features: Features) -> dict[str, Any]:
    return {**dict.fromkeys(("prompt", "chosen"), features["messages"]), "rejected": features["rejected_response"]}


# What fits


def _has(*names: str, not_: Sequence[str] = ()) -> Callable[[Features], bool]:
    return lambda features: set(names) <= set(features) and not set(not_) & set(features)


def _is_alpaca_chat(features: Features) -> bool:
    more = _has("instruction", "chosen", "rejected", not_=("prompt",))(features)
    return more and not features.keys().isdisjoint(("history", "system")) and is_text(features["chosen"])


def _is_sharegpt(features: Features) -> bool:
    there = _has("conversations", "system", "chosen", "rejected", not_=("prompt",))(features)
    return there and isinstance(features["chosen"], dict) and is_text(features["system"])


def _present(names: Iterable[str], there: Mapping[str, Any]) -> str:
    """Return the first of `names` that is there, empty if none is."""
    return next((name for name in names if name in there), "")


def _is_message(item: Mapping[str, Any]) -> bool:
    return not item.keys().isdisjoint(("role", "from"))


_PLAIN: Final = ("chosen", "rejected")
_ALPACA: Final = {"prompt": "instruction", "input": "input", "system": "system", "history": "history"}
_SWIFT: Final = {"prompt": "query", "chosen": "response", "rejected": "rejected_response"}
_OPENAI: Final = {"prompt": "input.messages", "tools": "input.tools"}

LAYOUTS: Final = (
    Layout(name="LLaMA-Factory's alpaca", fits=_is_alpaca_chat, columns=_ALPACA),
    Layout(name="LLaMA-Factory's sharegpt", fits=_is_sharegpt, columns={"system": "system"}),
    Layout(
        name="OpenAI's preferences",
        fits=_has("input", "preferred_output", "non_preferred_output"),
        columns={**_OPENAI, "chosen": "preferred_output", "rejected": "non_preferred_output"},
    ),
    Layout(
        name="ms-swift's messages",
        fits=_has("messages", "rejected_messages", not_=_PLAIN),
        columns={"chosen": "messages", "rejected": "rejected_messages"},
    ),
    Layout(
        name="ms-swift's rejected response",
        fits=_has("messages", "rejected_response", not_=_PLAIN),
        reads=lambda features: ("messages", "rejected_response"),
        pairs=_replaced_pairs,
        made=_replaced_columns,
    ),
    Layout(
        name="ms-swift's query and response",
        fits=_has("query", "response", "rejected_response", not_=_PLAIN),
        columns={**_SWIFT, "system": "system", "history": "history"},
    ),
    Layout(
        name="turns as lists and a winner",
        fits=_has(*TURNS, not_=_PLAIN),
        reads=lambda features: (*TURNS, "winner_tie"),
        pairs=turns_pairs,
        made=turns_columns,
    ),
    Layout(
        name="two answers and a winner",
        fits=lambda features: not set(_PLAIN) <= set(features) and is_duel(features),
        reads=duel_reads,
        pairs=duel_pairs,
        made=duel_columns,
    ),
    Layout(
        name="scored answers",
        fits=lambda features: not set(_PLAIN) <= set(features) and _is_ranked(features),
        reads=lambda features: tuple(_present(names, features) for names in (_PROMPTS, _ANSWERS, _SCORE_LISTS)),
        pairs=_ranked_pairs,
        made=_ranked_columns,
        by_rule=True,
    ),
    Layout(
        name="KTO's single answers",
        fits=lambda features: any(
            _has(answer, "label", not_=_PLAIN)(features) for answer in ("completion", "messages")
        ),
        refusal="the rows are single answers with a label (KTO), not pairs; join a good and a bad answer to the same "
        "prompt into one row with prompt, chosen and rejected",
    ),
)
"""Layouts that need more than other names of columns; the first that fits is taken."""
