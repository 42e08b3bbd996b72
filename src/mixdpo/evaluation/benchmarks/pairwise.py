"""Your own prompts, answers compared with a baseline's: every pair is judged twice, with swapped positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import mean_interval, proportion
from mixdpo.common.table_files import read_table
from mixdpo.common.tables import TextTable
from mixdpo.evaluation.benchmark import WIN_RATE, Column, JudgedBenchmark, Record, Scored, models_table
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.statistics.records import (
    answers_record,
    bounded_ends,
    by_model,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.generation.answer_files import read_answers
from mixdpo.judges import games
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.judge import score_of_a
from mixdpo.judges.task import JudgeTask

LONGEST_JUDGEMENT: Final = 1024
"""Tokens that a judge may write, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class PairwiseOptions:
    """How answers are compared and verdicts scored."""

    baseline: Path | None = field(default=None, metadata={"help": "answers to compare with", "judge_only": True})
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


def judge_task(sources: AnswerSources, options: PairwiseOptions) -> JudgeTask:
    """Compare answers in two games with swapped positions.

    Raises:
        InputError: no baseline is given, or its answers are to other prompts.
    """
    if options.baseline is None:
        raise InputError("there is nothing to compare with", hint="give the answers with --baseline")
    return games.game_task(sources, read_answers(options.baseline), LONGEST_JUDGEMENT)


def read_games(path: str | Path) -> dict[str, dict[str, games.Games]]:
    """Read `model`, `id`, `game1` and `game2` (labels such as `A>B`, or nothing), by model and prompt.

    Raises:
        InputError: a column is missing, or a prompt comes twice.
    """
    table = read_table(path)
    return by_model(table, list(zip(table.column("game1"), table.column("game2"), strict=True)))


def items(verdicts: Sequence[Path], options: PairwiseOptions | None = None) -> dict[str, ModelItems]:
    """Return the mean score of each prompt's games in percent."""
    texts = read_transcripts([read_table(file) for file in verdicts])
    return {
        model: ModelItems({"win_rate": {id: 100 * games.game_score(pair) for id, pair in own.items()}}, texts[model])
        for file in verdicts
        for model, own in read_games(file).items()
    }


def score(verdicts: Sequence[Path], options: PairwiseOptions, run: Record | None = None) -> Scored:
    """Score games: win rate in percent with a t interval over prompts, consistent wins, position bias.

    Raises:
        InputError: a model has no game with a label.
    """
    (file,) = verdicts
    answers = judged_answers(read_table(file))
    models: dict[str, Any] = {}
    for model, own in read_games(file).items():
        scores = {id: games.game_score(pair) for id, pair in own.items()}
        known = np.array([score for score in scores.values() if np.isfinite(score)])
        if not len(known):
            raise InputError(f"{model} has no game with a valid label", file=file)
        rate = mean_interval(100 * known, scale=(0.0, 100.0))
        both = proportion(int((known == 1).sum()), len(known))
        models[model] = {
            "win_rate": rate.estimate,
            "win_rate_interval": bounded_ends(rate),
            "n_wins": int((known > 0.5).sum()),
            "n_wins_base": int((known < 0.5).sum()),
            "n_draws": int((known == 0.5).sum()),
            "n_prompts": len(known),
            "n_unread": sum(score_of_a(label) is None for pair in own.values() for label in pair),
            "won_both_games": {"share": both.estimate, "interval": [both.low, both.high]},
            "position_bias": games.position_record(list(own.values())),
            **answers_record(answers.get(model), scores),
        }
    found = items(verdicts)
    differences = difference_records({model: one.scores["win_rate"] for model, one in found.items()}, options.seed)
    others = {"differences": differences, **reasoning_record(read_table(file))}
    return Scored(models=models, items=found, others=others)


def _table(record: Record) -> TextTable:
    columns = [
        Column.number("win rate", "win_rate"),
        Column.interval("95 % interval", "win_rate_interval"),
        Column("won both", lambda one: f"{one['won_both_games']['share']:.0%}"),
        Column("consistent", _consistent),
        Column.count("n", "n_prompts"),
        Column.count("unread", "n_unread"),
    ]
    return models_table("win rate against the baseline", record, "win_rate", columns)


def _consistent(one: Record) -> str:
    bias = one["position_bias"]
    return f"{bias['consistent']['estimate']:.0%}" if bias else "-"


BENCHMARK: Final = JudgedBenchmark(
    help="Your own prompts, answers compared: each pair is judged twice, with swapped positions.",
    stored_as=("pairwise",),
    options=PairwiseOptions,
    metrics=WIN_RATE,
    table=_table,
    judge_prompt="with {question}, {answer_a} and {answer_b}, that asks for [[A]], [[B]] or [[C]]",
    task=judge_task,
    score=score,
    items=items,
)
