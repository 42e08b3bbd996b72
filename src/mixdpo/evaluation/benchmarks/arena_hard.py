"""Arena-Hard v0.1 and v2: labels of games, battles, and win rates against the baseline with intervals.

Two games are judged for each prompt: in game 1 the baseline is assistant A and the model B, in game 2 the reverse.
Definitions: github.com/lmarena/arena-hard-auto, commits 0489bf3 (v0.1) and 196f6b8 (v2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.bradley_terry import bootstrap_by_model, elo_of, pooled_bootstrap, win_rate_of
from mixdpo.common.choices import check_choice
from mixdpo.common.errors import InputError
from mixdpo.common.statistics import clustered_mean
from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.statistics.style import (
    CONTROLS,
    FEATURES,
    Control,
    Version,
    bootstrap_style,
    fit_style,
    style_differences,
)
from mixdpo.judges.labels import STRICT_LABEL, score_of_a

BASELINES: Final = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
"""The published baseline of v0.1 and of each category of v2."""

SEEDS: Final[dict[Version, int]] = {"v0.1": 42, "v2": 0}
"""v0.1 was published with this seed, v2 without one."""

_LOOSE = re.compile(r"\[([AB<>=]+)\]")


def parse_label(judgement: str, version: Version) -> str | None:
    """Return the label of a judgement, such as `A>>B`, or None if there is no valid one.

    v0.1 takes `[[label]]` if all of them agree; v2 takes the last `[[label]]`, or else the last `[label]`.
    """
    if version == "v0.1":
        found = set(STRICT_LABEL.findall(judgement))
        label = found.pop() if len(found) == 1 else None
    else:
        labels = STRICT_LABEL.findall(judgement.upper()) or _LOOSE.findall(judgement.upper())
        label = labels[-1] if labels else None
    return label if label is not None and score_of_a(label) is not None else None


@dataclass(frozen=True)
class Battles:
    """Battles of models against one baseline, in order; arrays of shape (N,).

    Attributes:
        models: names, ascending.
        model: index into `models`.
        prompt: id of the prompt.
        outcome: 1 the model won, 0.5 a tie, 0 the baseline won.
        unread: games of each model without a valid label.
    """

    models: tuple[str, ...]
    model: np.ndarray
    prompt: np.ndarray
    outcome: np.ndarray
    unread: tuple[int, ...]


def read_battles(path: str | Path, version: Version, category: str | None = None) -> Battles:
    """Read battles from stored games or judgements.

    Columns: `model`, `question_id` (or `uid`), and one of: `game1` and `game2` with labels; `games`, a list of two
    with a `score` each, as the original writes; or `winner` (`model`, `baseline` or `tie`), one row per battle. A
    column `category` selects.

    Raises:
        InputError: a column is missing or holds something else, or there are several categories and none is named.
    """
    check_choice("version", version, Version)
    table = read_table(path)
    chosen = _rows_of_category(table, category)
    names, prompts = np.array(table.texts("model")), np.array(table.ids("question_id", "uid"))
    models = tuple(sorted(set(names[chosen].tolist())))
    unread = dict.fromkeys(models, 0)
    rows: list[tuple[int, float]] = []
    if "winner" in table:
        scores = {"model": 1.0, "tie": 0.5, "baseline": 0.0}
        for row in chosen:
            winner = table.columns["winner"][row]
            if winner not in scores:
                raise InputError(
                    f"{winner!r} is not model, baseline or tie", file=table.file, row=int(row) + 1, column="winner"
                )
            rows.append((row, scores[winner]))
    else:
        for row, labels in zip(chosen, _labels(table, chosen), strict=True):
            outcomes, missing = game_outcomes(*labels, version)
            unread[names[row]] += missing
            rows += [(row, outcome) for outcome in outcomes]
    if not rows:
        raise InputError("no game has a valid label", file=table.file)
    origin = np.array([row for row, _ in rows])
    return Battles(
        models=models,
        model=np.searchsorted(models, names[origin]),
        prompt=prompts[origin],
        outcome=np.array([outcome for _, outcome in rows]),
        unread=tuple(unread.values()),
    )


def read_labels(path: str | Path, category: str | None = None) -> dict[str, list[tuple[str | None, str | None]]]:
    """Read the labels of both games of every prompt, by model; nothing from a file of battles."""
    table = read_table(path)
    if "winner" in table:
        return {}
    rows = _rows_of_category(table, category)
    found: dict[str, list[tuple[str | None, str | None]]] = {}
    for row, labels in zip(rows.tolist(), _labels(table, rows), strict=True):
        found.setdefault(table.columns["model"][row], []).append(labels)
    return found


def game_outcomes(game1: str | None, game2: str | None, version: Version) -> tuple[list[float], int]:
    """Return the model's outcomes in the two games of a prompt, and how many games have no valid label.

    v0.1 keeps the valid game of a prompt whose other has none, v2 drops the prompt; v2 lists game 2 first.
    """
    scores = [score_of_a(game1), score_of_a(game2)]
    missing = scores.count(None)
    if version == "v2" and missing:
        return [], missing
    first = [1 - scores[0][0]] * scores[0][1] if scores[0] else []
    second = [scores[1][0]] * scores[1][1] if scores[1] else []
    return (first + second if version == "v0.1" else second + first), missing


def _rows_of_category(table: TableFile, category: str | None) -> np.ndarray:
    if "category" not in table:
        if category is not None:
            raise InputError(f"there is no column category to take {category!r} from", file=table.file)
        return np.arange(len(table))
    values = np.array(table.texts("category"))
    known = sorted(set(values.tolist()))
    if category is None and len(known) > 1:
        raise InputError("several categories, which have different baselines", file=table.file,
                         hint=f"take one with --category: {', '.join(known)}")  # fmt: skip
    if category is not None and category not in known:
        raise InputError(f"no category {category!r}", file=table.file, hint=f"there is {', '.join(known)}")
    return np.arange(len(table)) if category is None else np.flatnonzero(values == category)


def _labels(table: TableFile, rows: np.ndarray) -> list[tuple[str | None, str | None]]:
    if "games" not in table:
        first, second = table.column("game1"), table.column("game2")
        return [(first[row], second[row]) for row in rows]
    labels = []
    for row in rows:
        games = table.columns["games"][row]
        if not isinstance(games, list) or len(games) != 2:
            raise InputError("not a list of two games", file=table.file, row=int(row) + 1, column="games")
        labels.append((_score(games[0]), _score(games[1])))
    return labels


def _score(game: Any) -> str | None:
    return game.get("score") if isinstance(game, dict) else None


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn."""

    rounds: int = 100
    seed: int = 42
    level: float = 0.95


def score_battles(battles: Battles, version: Version, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Return win rates against the baseline in percent, by model, with two intervals.

    `interval` is drawn as the published one was: over battles, as if they were independent. `prompt_interval` draws
    prompts, whose battles are not; it is the honest one.
    """
    check_choice("version", version, Version)
    count = len(battles.models)
    draws = pooled_bootstrap if version == "v0.1" else bootstrap_by_model
    rates = draws(battles.model, battles.outcome, count, bootstrap.rounds, bootstrap.seed)
    low, high = percentile_interval(rates, version, bootstrap.level)
    results = {}
    for index, model in enumerate(battles.models):
        own = battles.model == index
        if not own.any():
            raise InputError(f"{model} has no game with a valid label")
        prompts = battles.prompt[own]
        rng = np.random.default_rng(bootstrap.seed)
        by_prompt = clustered_mean(battles.outcome[own], prompts, rng=rng, level=bootstrap.level)
        results[model] = {
            "win_rate": 100 * by_prompt.estimate,
            "interval": [float(100 * low[index]), float(100 * high[index])],
            "prompt_interval": [100 * by_prompt.low, 100 * by_prompt.high],
            "elo": float(elo_of(np.array(by_prompt.estimate))),
            "bootstrap_mean": float(100 * np.nanmean(rates[:, index])),
            "n_prompts": len(np.unique(prompts)),
            "n_battles": int(own.sum()),
            "n_unread": battles.unread[index],
        }
    return results


def score_at_equal_style(
    battles: Battles,
    style: dict[tuple[str, str], tuple[float, ...]],
    baseline: str,
    version: Version,
    control: Control,
    bootstrap: Bootstrap,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Return win rates at equal style in percent, by model, and the log odds of each controlled feature.

    Args:
        battles: see `Battles`.
        style: (tokens, headers, list items, bold spans) by model and prompt, of the baseline too.
        baseline: its name in `style`.
        version: see `fit_style`.
        control: which features are held equal.
        bootstrap: see `Bootstrap`.
    """
    names = [battles.models[index] for index in battles.model]
    sides = []
    for models in (names, [baseline] * len(names)):
        try:
            sides.append(np.array([style[key] for key in zip(models, battles.prompt.tolist(), strict=True)]))
        except KeyError as error:
            model, prompt = error.args[0]
            raise InputError(f"no style of {model}'s answer to {prompt}", hint="give it with --style FILE") from None
    difference_NS = style_differences(sides[0], sides[1], version)
    count = len(battles.models)
    fit = fit_style(battles.model, battles.outcome, difference_NS, count, version, control)
    rates = bootstrap_style(
        battles.model, battles.outcome, difference_NS, count, version, control, bootstrap.rounds, bootstrap.seed
    )
    low, high = percentile_interval(rates, version, bootstrap.level)
    results = {
        model: {
            "win_rate": float(100 * fit.win_rate[index]),
            "interval": [float(100 * low[index]), float(100 * high[index])],
            "bootstrap_median": float(100 * np.nanmedian(rates[:, index])),
        }
        for index, model in enumerate(battles.models)
    }
    controlled = [FEATURES[feature] for feature in CONTROLS[control]]
    return results, dict(zip(controlled, map(float, fit.coefficients), strict=True))


def read_style(path: str | Path) -> dict[tuple[str, str], tuple[float, ...]]:
    """Read `model`, `question_id` (or `uid`), `token_len`, `header_count`, `list_count`, `bold_count` of answers."""
    table = read_table(path)
    keys = zip(table.texts("model"), table.ids("question_id", "uid"), strict=True)
    counts = [table.numbers(name).tolist() for name in ("token_len", "header_count", "list_count", "bold_count")]
    return dict(zip(keys, zip(*counts, strict=True), strict=True))


def pool(several: list[Battles]) -> Battles:
    """Put the battles of several judges together, as the creative category of v2 is published."""
    models = tuple(sorted({model for battles in several for model in battles.models}))
    moved = [replace(one, model=np.searchsorted(models, np.array(one.models)[one.model])) for one in several]
    unread = [sum(one.unread[one.models.index(m)] for one in several if m in one.models) for m in models]
    return Battles(
        models=models,
        model=np.concatenate([one.model for one in moved]),
        prompt=np.concatenate([one.prompt for one in moved]),
        outcome=np.concatenate([one.outcome for one in moved]),
        unread=tuple(unread),
    )


def percentile_interval(rates: np.ndarray, version: Version, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the interval of each model; v0.1 interpolates between Elo ratings, v2 between win rates."""
    ends = [50 * (1 - level), 50 * (1 + level)]
    if version == "v2":
        low, high = np.nanpercentile(rates, ends, axis=0)
        return low, high
    low, high = np.nanpercentile(elo_of(rates), ends, axis=0)
    return win_rate_of(low), win_rate_of(high)
