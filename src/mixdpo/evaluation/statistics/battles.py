"""Battles of models against one baseline: win rates with intervals, plain and at equal style.

Several battles belong to one prompt, and are not independent. The intervals of both published versions are drawn as
those were (see `mixdpo.common.bradley_terry`); another one draws prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixdpo.common.bradley_terry import bootstrap_by_model, elo_of, pooled_bootstrap, win_rate_of
from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_choice
from mixdpo.common.statistics import both_ends, cluster_means, clustered_mean
from mixdpo.evaluation.statistics.style import (
    CONTROLS,
    FEATURES,
    Control,
    Version,
    bootstrap_style,
    fit_style,
    style_differences,
)


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


def pool(several: Sequence[Battles]) -> Battles:
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


def prompt_scores(battles: Battles) -> dict[str, dict[str, float]]:
    """Return the mean outcome of each prompt's battles, in percent, by model."""
    found = {}
    for index, model in enumerate(battles.models):
        own = battles.model == index
        means = cluster_means(100 * battles.outcome[own], battles.prompt[own])
        found[model] = {str(id): mean for id, mean in means.items()}
    return found


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are drawn."""

    rounds: int = 100
    seed: int = 42
    level: float = 0.95


def score_battles(battles: Battles, version: Version, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Return win rates against the baseline in percent, by model, with two intervals.

    `interval` is drawn as the published one was: over battles, as if they were independent. `prompt_interval` draws
    prompts, whose battles are not; it is the honest one, also where all battles end alike, of which every resample of
    the first shows the same.
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
        by_prompt = clustered_mean(battles.outcome[own], prompts, rng=rng, level=bootstrap.level, scale=(0.0, 1.0))
        results[model] = {
            "win_rate": 100 * by_prompt.estimate,
            "interval": [float(100 * low[index]), float(100 * high[index])],
            "prompt_interval": both_ends(by_prompt, 100),
            "elo": float(elo_of(np.array(by_prompt.estimate))),
            "bootstrap_mean": float(100 * np.nanmean(rates[:, index])),
            "n_prompts": len(np.unique(prompts)),
            "n_battles": int(own.sum()),
            "n_unread": battles.unread[index],
        }
    return results


def score_at_equal_style(
    battles: Battles,
    style: Mapping[tuple[str, str], tuple[float, ...]],
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


def percentile_interval(rates: np.ndarray, version: Version, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the interval of each model; v0.1 interpolates between Elo ratings, v2 between win rates."""
    ends = [50 * (1 - level), 50 * (1 + level)]
    if version == "v2":
        low, high = np.nanpercentile(rates, ends, axis=0)
        return low, high
    low, high = np.nanpercentile(elo_of(rates), ends, axis=0)
    return win_rate_of(low), win_rate_of(high)
