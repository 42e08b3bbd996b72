"""From stored verdicts of a benchmark to the record of its result file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.benchmarks.alpaca_eval import Align, LengthControl, Verdicts, score_verdicts
from mixdpo.evaluation.benchmarks.arena_hard import (
    BASELINES,
    Battles,
    Bootstrap,
    pool,
    read_battles,
    read_labels,
    read_style,
    score_at_equal_style,
    score_battles,
)
from mixdpo.evaluation.benchmarks.mt_bench import Ratings, mean_ratings, read_categories, read_ratings
from mixdpo.evaluation.statistics.records import (
    agreement_record,
    answers_record,
    difference_records,
    judged_answers,
    position_record,
)
from mixdpo.evaluation.statistics.style import Control, Version


def alpaca_result(
    judged: list[Verdicts], control: LengthControl | None, *, C: float | None = None, align: Align = "instruction"
) -> dict[str, Any]:
    """Score preferences; without `control` there is no length-controlled win rate."""
    scores = {
        one.model: dict(zip(map(str, one.instruction), (100 * (one.preference - 1)).tolist(), strict=True))
        for one in judged
    }
    return {
        "benchmark": "alpaca_eval_2",
        "settings": {"C": C if C is not None else "cross-validated", "align": align} if control else {},
        "models": dict(score_verdicts(judged, control, C=C, align=align)),
        "differences": difference_records(scores),
    }


def arena_result(
    verdicts: Sequence[Path],
    version: Version,
    bootstrap: Bootstrap,
    *,
    category: str | None = None,
    style: Path | None = None,
    control: Control = "style",
    baseline: str | None = None,
) -> dict[str, Any]:
    """Score stored games or battles; several files are several judges, whose battles are pooled.

    Args:
        verdicts: see `read_battles`.
        version: whose rules to follow.
        bootstrap: how intervals are drawn.
        category: take the prompts of this category.
        style: see `read_style`; None for no style control.
        control: what is held equal.
        baseline: its name in `style`; None for the published one.

    Raises:
        InputError: there is no published baseline, or see `read_battles` and `score_at_equal_style`.
    """
    name = baseline or BASELINES.get("arena-hard-v0.1" if version == "v0.1" else category or "hard_prompt")
    if style is not None and name is None:
        raise InputError(
            f"the category {category!r} has no published baseline", hint="name the one in --style: --baseline-name"
        )
    judges = [read_battles(file, version, category) for file in verdicts]
    battles = pool(judges)
    models = score_battles(battles, version, bootstrap)
    record: dict[str, Any] = {
        "benchmark": f"arena_hard_{version}",
        "settings": {"category": category, **asdict(bootstrap)},
        "models": models,
    }
    scores = scores_of_battles(battles)
    for file in verdicts:
        _add_judge_biases(models, scores, file, category)
    if style is not None and np.ptp(battles.outcome) == 0:
        record["style_control"] = "none: every battle ended the same way, so there is no effect of style to fit"
    elif style is not None and name is not None:
        controlled, effects = score_at_equal_style(battles, read_style(style), name, version, control, bootstrap)
        for model, result in controlled.items():
            models[model]["style_control"] = result
        record["settings"] |= {"control": control, "baseline": name}
        record["style_effects"] = effects
    record["differences"] = difference_records(scores, bootstrap.seed)
    if len(judges) > 1:
        record["judge_agreement"] = _agreements(judges, verdicts)
    return record


def scores_of_battles(battles: Battles) -> dict[str, dict[str, float]]:
    """Return the mean outcome of each prompt's battles, in percent, by model."""
    found = {}
    for index, model in enumerate(battles.models):
        own = battles.model == index
        ids, position = np.unique(battles.prompt[own], return_inverse=True)
        means = np.bincount(position, weights=100 * battles.outcome[own]) / np.bincount(position)
        found[model] = dict(zip(map(str, ids.tolist()), means.tolist(), strict=True))
    return found


def _add_judge_biases(
    models: dict[str, Any], scores: dict[str, dict[str, float]], file: Path, category: str | None
) -> None:
    """Add position bias, and what the answers are like, where a file of verdicts has labels and answers."""
    for model, labels in read_labels(file, category).items():
        models[model]["position_bias"] = position_record(labels)
    for model, judged in judged_answers(read_table(file)).items():
        if model in models:
            models[model] |= answers_record(judged, {id: score / 100 for id, score in scores[model].items()})


def _agreements(judges: Sequence[Battles], files: Sequence[Path]) -> list[dict[str, Any]]:
    found = []
    for (first, one), (second, other) in combinations(zip(map(scores_of_battles, judges), files, strict=True), 2):
        for model in first.keys() & second.keys():
            agreed = agreement_record(first[model], second[model], 50.0)
            if agreed is not None:
                found.append({"judges": [one.name, other.name], "model": model, **agreed})
    return found


def mt_bench_result(verdicts: Path, questions: Path | None, seed: int = 0) -> dict[str, Any]:
    """Average stored judgements, by turn and, where the questions or the verdicts say it, by category."""
    table = read_table(verdicts)
    ratings = read_ratings(verdicts)
    if questions is not None:
        categories = read_categories(questions)
    else:
        categories = (
            dict(zip(table.ids("question_id"), table.columns["category"], strict=True)) if "category" in table else {}
        )
    models = {model: mean_ratings(one, categories, seed=seed) for model, one in ratings.items()}
    scores = {model: scores_by_question(one) for model, one in ratings.items()}
    for model, judged in judged_answers(table).items():
        models[model] |= answers_record(judged, scores[model])
    return {
        "benchmark": "mt_bench",
        "settings": {"seed": seed},
        "models": models,
        "differences": difference_records(scores, seed),
    }


def scores_by_question(ratings: Ratings) -> dict[str, float]:
    """Return the mean rating of each question's turns."""
    known = np.isfinite(ratings.score)
    ids, position = np.unique(ratings.question[known], return_inverse=True)
    means = np.bincount(position, weights=ratings.score[known]) / np.bincount(position)
    return dict(zip(map(str, ids.tolist()), means.tolist(), strict=True))
