"""Verdicts on one's own prompt set: pairwise games with swapped positions, and grades of single answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval, proportion
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.statistics.records import (
    answers_record,
    bounded_ends,
    difference_records,
    judged_answers,
    position_record,
)
from mixdpo.judges.labels import score_of_a

Games = dict[str, tuple[str | None, str | None]]
"""Labels of both games by prompt id; in game 1 the baseline is A, in game 2 the model."""


def read_games(path: str | Path) -> dict[str, Games]:
    """Read `model`, `id`, `game1` and `game2` (labels such as `A>B`, or nothing), by model.

    Raises:
        InputError: a column is missing, or a prompt comes twice.
    """
    table = read_table(path)
    labels = list(zip(table.column("game1"), table.column("game2"), strict=True))
    return _by_model(table, labels)


def game_score(games: tuple[str | None, str | None]) -> float:
    """Return the model's mean score (1, 0.5, 0) in the games that have a label, NaN if none has."""
    first, second = score_of_a(games[0]), score_of_a(games[1])
    scores = [1 - first[0]] if first else []
    scores += [second[0]] if second else []
    return float(np.mean(scores)) if scores else np.nan


def pairwise_result(path: str | Path, seed: int = 0) -> dict[str, Any]:
    """Score stored games: win rate in percent with a t interval over prompts, consistent wins, position bias.

    Raises:
        InputError: a model has no game with a label.
    """
    games, answers = read_games(path), judged_answers(read_table(path))
    scores = {model: {id: game_score(pair) for id, pair in own.items()} for model, own in games.items()}
    models: dict[str, Any] = {}
    for model, own in games.items():
        known = np.array([score for score in scores[model].values() if np.isfinite(score)])
        if not len(known):
            raise InputError(f"{model} has no game with a valid label", file=path)
        rate = mean_interval(100 * known)
        wins = int((known == 1).sum())
        models[model] = {
            "win_rate": rate.estimate,
            "win_rate_interval": bounded_ends(rate),
            "n_wins": int((known > 0.5).sum()),
            "n_wins_base": int((known < 0.5).sum()),
            "n_draws": int((known == 0.5).sum()),
            "n_prompts": len(known),
            "n_unread": sum(score_of_a(label) is None for pair in own.values() for label in pair),
            "won_both_games": _share(wins, len(known)),
            "position_bias": position_record(list(own.values())),
            **answers_record(answers.get(model), scores[model]),
        }
    percent = {model: {id: 100 * score for id, score in own.items()} for model, own in scores.items()}
    return {"benchmark": "pairwise", "models": models, "differences": difference_records(percent, seed)}


def read_grades(path: str | Path) -> dict[str, dict[str, float]]:
    """Read `model`, `id` and `score` (a number, or nothing), by model.

    Raises:
        InputError: a column is missing or holds something else, or a prompt comes twice.
    """
    table = read_table(path)
    return _by_model(table, table.numbers("score").tolist())


def grade_result(path: str | Path, seed: int = 0) -> dict[str, Any]:
    """Score stored grades: mean with a t interval over prompts.

    Raises:
        InputError: a model has no grade.
    """
    grades, answers = read_grades(path), judged_answers(read_table(path))
    models: dict[str, Any] = {}
    for model, own in grades.items():
        known = np.array([grade for grade in own.values() if np.isfinite(grade)])
        if not len(known):
            raise InputError(f"{model} has no grade that could be read", file=path)
        mean = mean_interval(known)
        models[model] = {
            "average": mean.estimate,
            "average_interval": [mean.low, mean.high] if len(known) > 1 else None,
            "n_prompts": len(known),
            "n_unread": len(own) - len(known),
            **answers_record(answers.get(model), own),
        }
    return {"benchmark": "grade", "models": models, "differences": difference_records(grades, seed)}


def _by_model(table: TableFile, values: list[Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    rows = zip(table.texts("model"), table.ids("id", "question_id", "uid"), values, strict=True)
    for row, (model, id, value) in enumerate(rows, start=1):
        own = found.setdefault(model, {})
        if id in own:
            raise InputError(f"a second verdict on {model}'s answer to {id!r:.60}", file=table.file, row=row)
        own[id] = value
    return found


def _share(part: int, whole: int) -> Mapping[str, Any]:
    share = proportion(part, whole)
    return {"share": share.estimate, "interval": [share.low, share.high]}
