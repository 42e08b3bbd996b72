"""Your own prompts, answers compared with a baseline's: every pair is judged twice, with swapped positions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.statistics import both_ends, proportion
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.common.tables import TextTable, value_text
from mixdpo.evaluation.benchmark import WIN_RATE, Column, JudgedBenchmark, Record, Scored, models_table, ranked_scores
from mixdpo.evaluation.difference_tables import difference_sentences
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.evaluation.sentences import win_sentence, win_warnings
from mixdpo.evaluation.statistics.records import (
    JudgedAnswers,
    answers_record,
    by_model,
    difference_records,
    judged_answers,
    reasoning_record,
)
from mixdpo.evaluation.statistics.win_rates import equal_length, win_rate
from mixdpo.generation.answer_files import read_answers
from mixdpo.judges import games
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.judge import score_of_a
from mixdpo.judges.task import JudgeTask

_log = logging.getLogger(__name__)
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
    """Score games: win rate in percent with Wilson's interval over prompts (ties as halves), consistent wins, position
    bias, and what would be left of it at equal length.

    Raises:
        InputError: no game of any model has a label.
    """
    (file,) = verdicts
    table = read_table(file)
    answers, quoting = judged_answers(table), _quoting(table)
    models: dict[str, Any] = {}
    none: list[str] = []
    for model, own in read_games(file).items():
        scores = {id: games.game_score(pair) for id, pair in own.items()}
        known = np.array([score for score in scores.values() if np.isfinite(score)])
        if not len(known):
            none.append(model)
            continue
        rate = win_rate(known, options.seed)
        both = proportion(int((known == 1).sum()), len(known))
        models[model] = {
            "win_rate": 100 * rate.share.estimate,
            "win_rate_interval": both_ends(rate.share, 100),
            "p_value": rate.p_value,
            "test": rate.test,
            "detectable_win_rate": None if rate.detectable is None else 100 * rate.detectable,
            "n_wins": int((known > 0.5).sum()),
            "n_wins_base": int((known < 0.5).sum()),
            "n_draws": int((known == 0.5).sum()),
            "n_prompts": len(known),
            "n_prompts_unread": len(scores) - len(known),
            "n_unread": sum(score_of_a(label) is None for pair in own.values() for label in pair),
            "n_quoting": quoting.get(model, 0),
            "won_both_games": {"share": both.estimate, "interval": [both.low, both.high]},
            "position_bias": games.position_record(list(own.values())),
            **answers_record(answers.get(model), scores),
            **_length_records(answers.get(model), scores),
        }
    if not models:
        raise InputError(
            f"no verdict on {' and '.join(none)} could be read", file=file,
            hint="the judge prompt is to ask for a last line of [[A]], [[B]] or [[C]]; change it or the judge",
        )  # fmt: skip
    for model in none:
        _log.warning("no verdict on %s could be read, and it is left out", model)
    found = {model: own for model, own in items(verdicts).items() if model in models}
    scored = {model: one.scores["win_rate"] for model, one in found.items()}
    differences = difference_records(ranked_scores(models, scored), options.seed)
    others = {"differences": differences, **reasoning_record(table)}
    return Scored(models=models, items=found, others=others)


def _quoting(table: TableFile) -> dict[str, int]:
    """Return how many of a judge's replies quote another verdict than their own, by model."""
    found: dict[str, int] = {}
    columns = [table.columns.get(name, [None] * len(table)) for name in ("game1", "game2", "judgment")]
    for model, first, second, replies in zip(table.texts("model"), *columns, strict=True):
        if isinstance(replies, list):
            quoted = sum(map(games.quotes_another, replies, (first, second)))
            found[model] = found.get(model, 0) + quoted
    return found


def _length_records(judged: JudgedAnswers | None, scores: Mapping[str, float]) -> dict[str, Any]:
    """Return `lengths` and `equal_length`, where both answers are known: whose are the longer and how often the longer
    one wins, and the win rate at equal length, in percent, None where it cannot be told."""
    if judged is None or judged.baseline is None:
        return {}
    own, other = (np.array([len(text) for text in texts]) for texts in (judged.answers, judged.baseline))
    score = np.array([scores.get(id, np.nan) for id in judged.ids])
    found = equal_length(score, own, other)
    unequal = own != other
    decided = unequal & np.isfinite(score) & (score != 0.5)
    longer_won = int(((score > 0.5) == (own > other))[decided].sum())
    return {
        "lengths": {
            "model": float(own.mean()),
            "baseline": float(other.mean()),
            "longer": float((own > other)[unequal].mean()) if unequal.any() else None,
            "longer_wins": asdict(proportion(longer_won, int(decided.sum()))) if decided.any() else None,
        },
        "equal_length": None
        if found is None
        else {
            "win_rate": 100 * found.share.estimate,
            "interval": both_ends(found.share, 100),
            "explained": 100 * found.explained,
        },
    }


def baseline_name(record: Record) -> str:
    """Return the name of what the models of a result were compared with."""
    return str(record.get("settings", {}).get("baseline") or "the baseline")


def judge_name(record: Record) -> str | None:
    """Return who judged, None where the result does not say it."""
    judge = record.get("judge")
    named = judge.get("judge") if isinstance(judge, dict) else record.get("settings", {}).get("judge")
    return str(named) if named else None


def sentences(record: Record) -> list[str]:
    """Return who wins, in a sentence for each model, and the difference of two."""
    baseline, judge = baseline_name(record), judge_name(record)
    against = [win_sentence(name, baseline, one, judge) for name, one in record["models"].items() if "p_value" in one]
    return [*against, *difference_sentences(record, WIN_RATE.words("win_rate"), WIN_RATE.unit("win_rate"))]


def warnings(record: Record) -> list[str]:
    """Return what must be known of each model's win rate."""
    return [
        warning if len(record["models"]) == 1 else f"{model}: {warning}"
        for model, one in record["models"].items()
        if "p_value" in one
        for warning in win_warnings(one)
    ]


def _table(record: Record) -> TextTable:
    columns = [
        Column("win rate, %", lambda one: value_text(one["win_rate"], 1)),
        Column.interval("95 % interval", "win_rate_interval"),
        Column("won both, %", lambda one: value_text(100 * one["won_both_games"]["share"], 0)),
        Column("same winner, %", _consistent),
        Column.count("prompts", "n_prompts"),
        Column.count("unread", "n_unread"),
    ]
    return models_table(f"win rate against {baseline_name(record)}", record, "win_rate", columns)


def _consistent(one: Record) -> str:
    bias = one["position_bias"]
    return value_text(100 * bias["consistent"]["estimate"], 0) if bias else "-"


BENCHMARK: Final = JudgedBenchmark(
    help="Your own prompts, answers compared: each pair is judged twice, with swapped positions.",
    stored_as=("pairwise",),
    options=PairwiseOptions,
    metrics=WIN_RATE,
    table=_table,
    sentences=sentences,
    warnings=warnings,
    baseline=baseline_name,
    judge_prompt="with {question}, {answer_a} and {answer_b}, that asks for [[A]], [[B]] or [[C]]",
    task=judge_task,
    score=score,
    items=items,
)
