"""Which rate and beta the arms of a map are trained with: the same for all, and beside it each arm's own best.

Arms that were tuned one by one on a few seeds differ by what chance chose for them, a difference that is the same in
all final seeds and so in no interval. Arms of one grid therefore share the setting that is best for the first of them,
the baseline's: what comes of a run whose plan alone is another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mixdpo.study.world.map_effects import PairedEffect, paired_effect
from mixdpo.study.world.map_runs import Choices, MapRun, Setting, grid_of
from mixdpo.study.world.map_settings import ArmOfMap, MapSettings

Trials = Sequence[tuple[MapRun, Mapping[str, float]]]
STEADY: Final = 0.02
"""Largest standard deviation over seeds, in reward, of an arm that does not break on some of them."""
_Rewards = Mapping[Setting, Mapping[int, float]]
"""By setting and seed."""


def chosen_settings(settings: MapSettings, trials: Trials) -> Choices:
    """Return the setting of every world, tuned cell and arm: of arms with the same grid, what is best for the first.

    Only settings count at which all of these arms are steady, or else the one at which the least steady is steadiest.
    Arms that are the first one in another order count as further seeds of it. Of equal settings that of the smallest
    rate, then beta, is taken.
    """
    rewards = _rewards(trials)
    of_grid: dict[tuple[str, str, tuple[Setting, ...]], list[str]] = defaultdict(list)
    for world, cell, arm in rewards:
        of_grid[world, cell, tuple(grid_of(settings, world, arm))].append(arm)
    chosen: dict[tuple[str, str, str], Setting] = {}
    for (world, cell, _), arms in of_grid.items():
        first = sorted(arms, key=list(settings.arms).index)[0]
        widest = {
            setting: max(_deviation(list(rewards[world, cell, arm][setting].values())) for arm in arms)
            for setting in rewards[world, cell, first]
        }
        steady = [setting for setting, deviation in widest.items() if deviation <= max(STEADY, min(widest.values()))]
        same = [arm for arm in arms if _but_order(settings.arms[arm]) == _but_order(settings.arms[first])]
        best = _best(
            {
                setting: [reward for arm in same for reward in rewards[world, cell, arm][setting].values()]
                for setting in steady
            }
        )
        chosen.update({(world, cell, arm): best for arm in arms})
    return chosen


def own_settings(settings: MapSettings, trials: Trials) -> list[dict[str, Any]]:
    """Return what every arm reaches at its own best setting, against the baseline at its own, on the seeds of tuning.

    The best of several settings is flattered by chance, that of all arms alike if their grids are as large.
    """
    rewards = _rewards(trials)
    rows = []
    for (world, cell, arm), found in rewards.items():
        setting, baseline = _best(_by_setting(found)), rewards[world, cell, settings.baseline]
        own, other = found[setting], baseline[_best(_by_setting(baseline))]
        seeds = sorted(own.keys() & other.keys())
        values = np.array([own[seed] for seed in seeds])
        effect = paired_effect(values - [other[seed] for seed in seeds]) if len(seeds) > 1 else None
        rows.append(
            {
                "world": world, "cell": cell, "arm": arm, "learning_rate": setting[0], "beta": setting[1],
                "reward": round(float(values.mean()), 5), "effect": None if effect is None else _ends(effect),
            }
        )  # fmt: skip
    return rows


def _rewards(trials: Trials) -> dict[tuple[str, str, str], dict[Setting, dict[int, float]]]:
    rewards: dict[tuple[str, str, str], dict[Setting, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run, found in trials:
        if run.learning_rate is not None and run.beta is not None:
            rewards[run.world, run.cell, run.arm][run.learning_rate, run.beta][run.seed] = found["reward"]
    return rewards


def _by_setting(found: _Rewards) -> dict[Setting, list[float]]:
    return {setting: list(of_seed.values()) for setting, of_seed in found.items()}


def _best(rewards: Mapping[Setting, Sequence[float]]) -> Setting:
    return max(sorted(rewards), key=lambda setting: _worth(rewards[setting]))


def _worth(rewards: Sequence[float]) -> float:
    """Return the mean less three standard deviations, which a rate at the edge of collapse does not survive."""
    return float(np.mean(rewards) - 3 * _deviation(rewards))


def _deviation(rewards: Sequence[float]) -> float:
    return float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0


def _but_order(arm: ArmOfMap) -> ArmOfMap:
    return replace(arm, order=0, note="")


def _ends(effect: PairedEffect) -> list[float]:
    return [round(value, 5) for value in (effect.estimate, effect.low, effect.high)]
