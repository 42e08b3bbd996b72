"""Two answers to a prompt and who of them won: how arenas and annotators keep it, and the pair it makes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, Final

from datasets import Features, List, Value

from mixdpo.common.table_files import well_formed
from mixdpo.data.column_names import PROMPT_NAMES, bare, find_name
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.messages import Message
from mixdpo.data.printed import parse_text
from mixdpo.data.prompts import DropPair
from mixdpo.data.views import Row, ViewFault


@dataclass(frozen=True, kw_only=True)
class _Duel:
    """Columns of two answers and of their winner.

    Attributes:
        first: the one answer; `second`: the other one.
        winner: says who won.
        first_wins: what `winner` says where the first won, in lower case; `second_wins` likewise. Neither: it is a
            number, under 0 where the first won, whose size says by how much.
        prompt: the columns that may hold the prompt, the first that is there.
        scores: columns of the scores of both answers.
    """

    first: str
    second: str
    winner: str
    first_wins: tuple[str, ...] = ()
    second_wins: tuple[str, ...] = ()
    prompt: tuple[str, ...] = ("prompt", *PROMPT_NAMES)
    scores: tuple[str, str] | None = None


_ANSWERS: Final = ("conversation", "response", "answer", "completion", "output", "generation")
_SIDES: Final = (
    (("_a", "_b"), ("model_a", "a", "left"), ("model_b", "b", "right")),
    (("_0", "_1"), ("0",), ("1",)),
    (("_1", "_2"), ("1", "first"), ("2", "second")),
    (("1", "2"), ("1", "first"), ("2", "second")),
)
"""Endings of the names of both answers, and what says that either won."""
_WINNERS: Final = ("winner", "preference", "preferred", "choice", "better", "better_response_id", "label")


def _plain_duels() -> Iterator[_Duel]:
    """Yield the duels whose columns are called alike, such as `response_a`, `response_b` and `winner`."""
    for answer, (ends, *wins), winner in product(_ANSWERS, _SIDES, _WINNERS):
        first, second = (answer + end for end in ends)
        yield _Duel(
            first=first,
            second=second,
            winner=winner,
            first_wins=(*wins[0], first),
            second_wins=(*wins[1], second),
            scores=(f"score{ends[0]}", f"score{ends[1]}"),
        )


_DUELS: Final = (
    _Duel(first="response_1", second="response_2", winner="preference_strength"),  # HelpSteer2
    _Duel(first="response1", second="response2", winner="overall_preference", prompt=("context",)),  # HelpSteer3
    _Duel(
        first="human_ref_A",
        second="human_ref_B",
        winner="labels",
        first_wins=("1",),
        second_wins=("0",),
        prompt=("history",),
        scores=("score_A", "score_B"),
    ),  # SHP
    *_plain_duels(),
)
_TIES: Final = ("tie", "tie_(bothbad)", "both_bad", "bothbad", "both_good", "both", "draw", "equal", "neither")

TURNS: Final = ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b")
"""Columns of Kaggle's copy of LMSYS' arena: the texts of all turns as a JSON list, and a column per outcome."""


def is_duel(names: Iterable[str]) -> bool:
    """Whether columns hold two answers and who won."""
    return _duel_of(tuple(names)) is not None


def duel_pairs(row: Row, data: DataSettings) -> list[dict[str, Any]]:
    """Return the pair of a row; of a tie that is kept the first answer is chosen.

    Raises:
        DropPair: neither answer won, and ties are not kept.
        ViewFault: nobody can say who won.
    """
    duel = _duel_of(tuple(row))
    assert duel is not None, "the layout was found by these columns"
    lead = _lead(row[duel.winner], duel)
    tie = _tie(lead == 0, data)
    names = [(duel.first, "chosen"), (duel.second, "rejected")]
    if lead < 0:
        names = [(duel.second, "chosen"), (duel.first, "rejected")]
    pair: dict[str, Any] = {side: row[name] for name, side in names} | tie
    if duel.prompt:
        pair["prompt"] = row[duel.prompt[0]]
    if not duel.first_wins:
        pair["margin"] = abs(lead)
    if duel.scores is not None:
        scores = [row[name] for name in duel.scores]
        pair["score_chosen"], pair["score_rejected"] = scores if lead >= 0 else scores[::-1]
    return [pair]


def duel_columns(features: Features) -> dict[str, Any]:
    """Return the types of the columns that `duel_pairs` makes."""
    duel = _duel_of(tuple(features))
    assert duel is not None, "the layout was found by these columns"
    made = {"chosen": features[duel.first], "rejected": features[duel.second]}
    if duel.prompt:
        made["prompt"] = features[duel.prompt[0]]
    if not duel.first_wins:
        made["margin"] = Value("float64")
    if duel.scores is not None:
        made |= {"score_chosen": features[duel.scores[0]], "score_rejected": features[duel.scores[1]]}
    return made


def duel_reads(features: Features) -> tuple[str, ...]:
    """Return the columns that `duel_pairs` reads."""
    duel = _duel_of(tuple(features))
    return () if duel is None else (duel.first, duel.second, duel.winner, *duel.prompt, *(duel.scores or ()))


@lru_cache
def _duel_of(names: tuple[str, ...]) -> _Duel | None:
    """Return the duel of a table's columns, under the names they have there."""
    for duel in _DUELS:
        there = {part: find_name(part, names) for part in (duel.first, duel.second, duel.winner, *duel.prompt)}
        first, second, winner = (there[part] for part in (duel.first, duel.second, duel.winner))
        if first and second and winner:
            prompt = next((name for part in duel.prompt if (name := there[part])), None)
            scores = tuple(name for score in duel.scores or () if (name := find_name(score, names)))
            return replace(
                duel,
                first=first,
                second=second,
                winner=winner,
                prompt=() if prompt is None else (prompt,),
                scores=(scores[0], scores[1]) if len(scores) == 2 else None,
            )
    return None


def _lead(value: Any, duel: _Duel) -> float:
    """Return by how much the first answer won: over 0, under 0 where it lost, 0 for a tie."""
    if not duel.first_wins:
        try:
            lead = -float(value)
        except (TypeError, ValueError):
            lead = math.nan
        if not math.isfinite(lead):
            raise ViewFault(duel.winner, f"{value!r:.40} is no number that says which answer is better")
        return lead
    winner = str(int(value)) if isinstance(value, (bool, float)) and math.isfinite(value) else bare(str(value))
    if winner in _TIES:
        return 0.0
    if winner not in (*duel.first_wins, *duel.second_wins):
        expected = ", ".join((*duel.first_wins, *duel.second_wins))
        raise ViewFault(duel.winner, f"{value!r:.40} names no winner (one of {expected}, tie)")
    return 1.0 if winner in duel.first_wins else -1.0


def _tie(is_tie: bool, data: DataSettings) -> dict[str, Any]:
    """Return the column `tie` where ties are kept; raises `DropPair` of one where they are not."""
    if data.ties == "keep":
        return {"tie": is_tie}
    if is_tie:
        raise DropPair("tie")
    return {}


def turns_pairs(row: Row, data: DataSettings) -> list[dict[str, Any]]:
    """Return the pair of a row with the texts of all turns: the first turn is the prompt, the rest are the answers.

    Raises:
        DropPair: neither answer won, and ties are not kept, or a turn has no answer.
        ViewFault: the lists are none, or of different lengths.
    """
    won = [_is_one(row[name]) for name in ("winner_model_a", "winner_model_b")]
    tie = _tie(won[0] == won[1], data)
    asked, first, second = (_texts(row, name) for name in ("prompt", "response_a", "response_b"))
    sides = [_answers(asked, side, name) for side, name in ((first, "response_a"), (second, "response_b"))]
    chosen, rejected = sides[::-1] if won == [False, True] else sides
    return [{"prompt": [_says("user", asked[0])], "chosen": chosen, "rejected": rejected, **tie}]


def turns_columns(features: Features) -> dict[str, Any]:
    """Return the types of the columns that `turns_pairs` makes."""
    return dict.fromkeys(("prompt", "chosen", "rejected"), List({"role": Value("string"), "content": Value("string")}))


def _is_one(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "1.0", "true")


def _texts(row: Row, name: str) -> list[str | None]:
    """Return the texts of all turns; a text that is no list is that of the only turn."""
    value = row[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_text(value)
        except ValueError as error:
            raise ViewFault(name, f"looks like a list of turns and cannot be read ({error})") from error
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise ViewFault(name, "is not a list with the text of every turn")
    # Escapes in the file stand for halves of characters that its text was cut in.
    return [None if text is None else well_formed(text) for text in texts]


def _answers(asked: list[str | None], answered: list[str | None], name: str) -> list[Message]:
    if len(answered) != len(asked):
        raise ViewFault(name, f"has {len(answered)} answers to {len(asked)} prompts")
    if not all(text and text.strip() for text in answered):
        raise DropPair("empty_completion")
    turns = [[_says("user", prompt), _says("assistant", text)] for prompt, text in zip(asked, answered, strict=True)]
    return [message for turn in turns for message in turn][1:]


def _says(role: str, text: str | None) -> Message:
    return {"role": role, "content": text or ""}
