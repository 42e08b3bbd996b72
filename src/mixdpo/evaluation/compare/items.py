"""Values and texts by prompt: from the tables of items that `mixdpo eval` writes, and from stored verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.statistics import cluster_means
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.benchmarks.alpaca_eval import read_verdicts as read_preferences
from mixdpo.evaluation.benchmarks.arena_hard import pool, read_battles
from mixdpo.evaluation.benchmarks.mt_bench import read_ratings
from mixdpo.evaluation.benchmarks.own_prompts import game_score, read_games, read_grades
from mixdpo.evaluation.benchmarks.results import scores_by_question, scores_of_battles
from mixdpo.generation.answer_files import plain_text

_VERDICTS: Final = ("judgment", "judgement", "verdict", "reply", "raw_completion")
_IDS: Final = ("question_id", "uid", "instruction_index", "id")


@dataclass(frozen=True)
class Transcript:
    """What there is to read of one prompt; None where it is not known."""

    prompt: str | None = None
    answer: str | None = None
    verdict: str | None = None
    baseline: str | None = None
    """The answer that this one was compared with."""


@dataclass(frozen=True)
class ModelItems:
    """One model's scores by metric and prompt id, what there is to read, and the cluster of prompts, by prompt id."""

    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    transcripts: Mapping[str, Transcript] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)


def read_items(path: Path) -> dict[str, ModelItems]:
    """Read a table of items, by model.

    Columns: `model`, `id`, `metric` and `score`, and perhaps `prompt`, `answer` and `cluster` (what prompts that are
    not independent have in common); or, as of preferences, `model`, `prompt_id` and a column for each metric, whose
    pairs of one prompt are averaged first.
    """
    table = read_table(path)
    models = np.array(table.texts("model"))
    return {
        model: _long(table, np.flatnonzero(models == model))
        if "score" in table
        else _wide(table, np.flatnonzero(models == model))
        for model in dict.fromkeys(models.tolist())
    }


def _long(table: TableFile, rows: np.ndarray) -> ModelItems:
    ids, metrics, values = table.ids("id"), table.texts("metric"), table.numbers("score")
    scores: dict[str, dict[str, float]] = {}
    transcripts = {}
    for row in rows.tolist():
        scores.setdefault(metrics[row], {})[ids[row]] = float(values[row])
        if "answer" in table:
            prompt = table.columns["prompt"][row] if "prompt" in table else None
            transcripts[ids[row]] = Transcript(plain_text(prompt) if prompt else None, table.columns["answer"][row])
    clusters = table.texts("cluster") if "cluster" in table else []
    return ModelItems(scores, transcripts, {ids[row]: clusters[row] for row in rows.tolist() if clusters})


def _wide(table: TableFile, rows: np.ndarray) -> ModelItems:
    prompts = np.array(table.ids("prompt_id"))[rows]
    metrics = (metric for metric in ("accuracy", "per_token_accuracy") if metric in table)
    return ModelItems({metric: cluster_means(100 * table.numbers(metric)[rows], prompts) for metric in metrics})


def read_verdicts(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, ModelItems]:
    """Read what a judge transcripts, by model, of the benchmarks whose verdicts this project can read."""
    reader = next((read for prefix, read in _SCORES.items() if benchmark.startswith(prefix)), None)
    if reader is None or not files:
        return {}
    texts: dict[str, dict[str, Transcript]] = {}
    for file in files:
        _add_texts(texts, read_table(file))
    return {
        model: ModelItems(scores, texts.get(model, {})) for model, scores in reader(benchmark, files, settings).items()
    }


ScoresOf = Callable[[str, Sequence[Path], Mapping[str, Any]], dict[str, dict[str, dict[str, float]]]]


def _preferences(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        one.model: {
            "win_rate": dict(zip(map(str, one.instruction), (100 * (one.preference - 1)).tolist(), strict=True))
        }
        for file in files
        for one in read_preferences(file)
    }


def _battles(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    version: Any = benchmark.removeprefix("arena_hard_")
    battles = pool([read_battles(file, version, settings.get("category")) for file in files])
    return {model: {"win_rate": scores} for model, scores in scores_of_battles(battles).items()}


def _ratings(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        model: {"average": scores_by_question(ratings)}
        for file in files
        for model, ratings in read_ratings(file).items()
    }


def _games(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        model: {"win_rate": {id: 100 * game_score(labels) for id, labels in games.items()}}
        for file in files
        for model, games in read_games(file).items()
    }


def _grades(benchmark: str, files: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {model: {"average": grades} for file in files for model, grades in read_grades(file).items()}


_SCORES: Final[dict[str, ScoresOf]] = {
    "alpaca_eval": _preferences,
    "arena_hard": _battles,
    "mt_bench": _ratings,
    "pairwise": _games,
    "grade": _grades,
}


def _add_texts(texts: dict[str, dict[str, Transcript]], table: TableFile) -> None:
    """Add what a table of verdicts has to read: judgements, labels of games, answers, instructions."""
    keys = next((table.ids(name) for name in _IDS if name in table), None)
    column = next((table.columns[name] for name in _VERDICTS if name in table), None)
    games = [table.columns[name] for name in ("game1", "game2") if name in table]
    models = table.texts("model", "generator_2")
    answers, prompts, baseline = (
        next((table.columns[name] for name in names if name in table), None)
        for names in (("output_2", "answer"), ("instruction", "prompt"), ("output_1",))
    )
    if keys is None:  # every model's verdicts are in the order of the instructions
        counters: defaultdict[str, count[int]] = defaultdict(count)
        keys = [str(next(counters[model])) for model in models]
    for row, (model, key) in enumerate(zip(models, keys, strict=True)):
        parts = [f"game {number}: {game[row]}" for number, game in enumerate(games, start=1)]
        if column is not None and column[row] is not None:
            turn = f"turn {table.columns['turn'][row]}: " if "turn" in table else ""
            parts.append(turn + plain_text(column[row]))
        before = texts.setdefault(model, {}).get(key, Transcript())
        verdict = "\n\n".join(filter(None, [before.verdict, *parts])) or None
        answer = answers[row] if answers is not None else before.answer
        prompt = plain_text(prompts[row]) if prompts is not None else before.prompt
        if "turn" in table:
            prompt, answer = _below(before.prompt, prompt), _below(before.answer, answer)
        texts[model][key] = Transcript(prompt, answer, verdict, baseline[row] if baseline is not None else None)


def _below(first: str | None, second: str | None) -> str | None:
    return "\n\n".join(text for text in (first, second) if text is not None) or None
