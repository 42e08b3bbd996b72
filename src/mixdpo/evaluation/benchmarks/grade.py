"""Your own prompts, answers graded one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval
from mixdpo.common.table_files import read_table
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import Column, JudgedBenchmark, MetricNames, Record, Scored, models_table
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.records import (
    answers_record,
    by_model,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.judges.grades import grade_task

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
        InputError: a model has no grade.
    """
    (file,) = verdicts
    answers, found = judged_answers(read_table(file)), items(verdicts)
    grades = {model: own.scores["average"] for model, own in found.items()}
    models: dict[str, Any] = {}
    for model, own in grades.items():
        known = np.array([grade for grade in own.values() if np.isfinite(grade)])
        if not len(known):
            raise InputError(
                f"{model} has no grade that could be read", file=file,
                hint="a grade is one [[number]] on the scale that the judge prompt names",
            )  # fmt: skip
        mean = mean_interval(known)
        models[model] = {
            "average": mean.estimate,
            # Of grades that are all equal the items say nothing, and stored ones nothing of their scale.
            "average_interval": [mean.low, mean.high] if np.ptp(known) > 0 else None,
            "n_prompts": len(known),
            "n_unread": len(own) - len(known),
            **answers_record(answers.get(model), own),
        }
    others = {"differences": difference_records(grades, options.seed), **reasoning_record(read_table(file))}
    return Scored(models=models, items=found, others=others)


def _table(record: Record) -> TextTable:
    columns = [
        Column.number("average", "average"),
        Column.interval("95 % interval", "average_interval", 2),
        Column.count("n", "n_prompts"),
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
    task=lambda sources, options: grade_task(sources, options.references, LONGEST_JUDGEMENT),
    score=score,
    items=items,
)
