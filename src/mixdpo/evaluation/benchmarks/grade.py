"""Your own prompts, answers graded one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import (
    Column,
    JudgedBenchmark,
    MetricNames,
    Record,
    Scored,
    models_table,
    ranked_scores,
)
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.records import (
    answers_record,
    by_model,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.judges import grades as grading

_log = logging.getLogger(__name__)
LONGEST_JUDGEMENT: Final = 1024
"""Tokens that a judge may write, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class GradeOptions:
    """How answers are graded and verdicts scored."""

    references: Path | None = field(
        default=None,
        metadata={"help": "reference answers by id, for judge prompts with {reference}", "judge_only": True},
    )
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


def read_grades(path: str | Path) -> dict[str, dict[str, float]]:
    """Read `model`, `id` and `score` (a number, or nothing), by model and prompt.

    Raises:
        InputError: a column is missing or holds something else, or a prompt comes twice.
    """
    table = read_table(path)
    return by_model(table, table.numbers("score").tolist())


def items(verdicts: Sequence[Path], options: GradeOptions | None = None) -> dict[str, ModelItems]:
    """Return the grade of each prompt's answer."""
    texts = read_transcripts([read_table(file) for file in verdicts])
    return {
        model: ModelItems({"average": grades}, texts[model])
        for file in verdicts
        for model, grades in read_grades(file).items()
    }


def score(verdicts: Sequence[Path], options: GradeOptions, run: Record | None = None) -> Scored:
    """Score grades: mean with a t interval over prompts.

    Raises:
        InputError: no model has a grade.
    """
    (file,) = verdicts
    table = read_table(file)
    answers, quoting, found = judged_answers(table), _quoting(table), items(verdicts)
    grades = {model: own.scores["average"] for model, own in found.items()}
    models: dict[str, Any] = {}
    none: list[str] = []
    for model, own in grades.items():
        known = np.array([grade for grade in own.values() if np.isfinite(grade)])
        if not len(known):
            none.append(model)
            continue
        mean = mean_interval(known)
        models[model] = {
            "average": mean.estimate,
            # Of grades that are all equal the items say nothing, and stored ones nothing of their scale.
            "average_interval": [mean.low, mean.high] if np.ptp(known) > 0 else None,
            "n_prompts": len(known),
            "n_unread": len(own) - len(known),
            "n_quoting": quoting.get(model, 0),
            **answers_record(answers.get(model), own),
        }
    if not models:
        raise InputError(
            f"no grade of {' and '.join(none)} could be read", file=file,
            hint="a grade is one [[number]] on the scale that the judge prompt names",
        )  # fmt: skip
    for model in none:
        _log.warning("no grade of %s could be read, and it is left out", model)
    found = {model: own for model, own in found.items() if model in models}
    grades = {model: grades[model] for model in models}
    others = {
        "differences": difference_records(ranked_scores(models, grades), options.seed),
        **reasoning_record(table),
    }
    return Scored(models=models, items=found, others=others)


def _quoting(table: TableFile) -> dict[str, int]:
    """Return how many of a judge's replies quote another grade than their own, by model."""
    found: dict[str, int] = {}
    for model, reply, grade in zip(
        table.texts("model"), table.columns.get("judgment", [None] * len(table)), table.numbers("score"), strict=True
    ):
        known = float(grade) if np.isfinite(grade) else None
        found[model] = found.get(model, 0) + grading.quotes_another(reply if isinstance(reply, str) else None, known)
    return found


def _table(record: Record) -> TextTable:
    columns = [
        Column.number("rating", "average"),
        Column.interval("95 % interval", "average_interval", 2),
        Column.count("prompts", "n_prompts"),
        Column.count("unread", "n_unread"),
    ]
    return models_table("grades", record, "average", columns)


BENCHMARK: Final = JudgedBenchmark(
    help="Your own prompts, answers graded one by one.",
    stored_as=("grade",),
    options=GradeOptions,
    metrics=MetricNames(headlines=("average",), labels={"average": "rating"}),
    table=_table,
    judge_prompt="with {question} and {answer}, that asks for [[grade]]",
    task=lambda sources, options: grading.grade_task(sources, options.references, LONGEST_JUDGEMENT),
    score=score,
    items=items,
)
