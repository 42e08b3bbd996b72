"""The table of a map: what arms are worth in every cell, their paired effects, where SFT on hard pairs breaks even.

It is what `map.json` holds, JSON-ready, and all that reports and figures are made of.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.study.world.map_effects import PairedEffect, break_even, by_base, holm_within, paired_effect
from mixdpo.study.world.map_runs import MapRun
from mixdpo.study.world.map_settings import START, CellOfMap, MapSettings
from mixdpo.study.world.map_tuning import own_settings
from mixdpo.study.world.pairs import Cell
from mixdpo.study.world.worlds import BASES

VERSION: Final = 1
TABLE_FILE: Final = "map.json"
MEASURES: Final = ("reward", "greedy", "spread", "finished", "greedy_finished", "tokens", "entropy")
"""What is measured of every policy: see `measure`."""
OF_PAIRS: Final = ("hard_quality", "hard_right", "easy_right")
Found = Mapping[str, Mapping[str, np.ndarray]]
"""By arm and measure, the values of a cell's seeds, float64 of shape (S,)."""


def map_table(
    settings: MapSettings,
    finals: Sequence[tuple[MapRun, Mapping[str, float]]],
    trials: Sequence[tuple[MapRun, Mapping[str, float]]] = (),
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Put the results of a map together.

    Args:
        settings: of the map.
        finals: the final runs with their results, all of them.
        trials: those of tuning.
        versions: of what computed them.
    """
    found: dict[tuple[str, str], dict[str, dict[int, Mapping[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    chosen: dict[tuple[str, str, str], tuple[float | None, float | None]] = {}
    for run, result in finals:
        found[run.world, run.cell][run.arm][run.seed] = result
        chosen[run.world, run.cell, run.arm] = run.learning_rate, run.beta
    cells = []
    for world, name, cell in settings.cells():
        by_arm = found[world, name]
        values = {arm: _columns(by_arm[arm], settings.seeds, arm == START) for arm in by_arm}
        rates = {arm: chosen[world, name, arm] for arm in by_arm}
        cells.append(_cell(settings, world, name, cell, values, rates))
    seconds = sum(
        result.get("train_seconds", 0.0) + result.get("measure_seconds", 0.0) for _, result in (*finals, *trials)
    )
    return {
        "version": VERSION,
        "name": settings.name,
        "title": settings.title,
        "pairs": settings.pairs,
        "batch_size": settings.batch_size,
        "seeds": list(settings.seeds),
        "baseline": settings.baseline,
        "crossing": asdict(settings.crossing),
        "arms": {name: arm.note for name, arm in settings.arms.items()},
        "tuning": {name: asdict(world.tuning) for name, world in settings.worlds.items()},
        "runs": {"final": len(finals), "tuning": len(trials), "hours": round(seconds / 3600, 3)},
        "versions": dict(versions or {}),
        "own_settings": own_settings(settings, trials),
        "cells": cells,
        "break_even": _break_evens(settings, cells),
    }


def save_table(table: Mapping[str, Any], folder: Path) -> None:
    """Write `map.json`."""
    with atomic_path(folder / TABLE_FILE) as temporary:
        temporary.write_text(table_text(table), encoding="utf-8")


def table_text(table: Mapping[str, Any]) -> str:
    """Return a table as JSON with one line for each cell."""
    parts = []
    for key, value in table.items():
        rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else None
        text = json.dumps(value) if rows is None else "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_table(path: Path) -> dict[str, Any]:
    """Read a `map.json`; `InputError` if it is missing, broken, or of another version."""
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    if table.get("version") != VERSION:
        raise InputError(f"not a map of format {VERSION}", file=path, hint="make it anew with `mixdpo map`")
    return table


def _columns(
    by_seed: Mapping[int, Mapping[str, float]], seeds: Sequence[int], is_start: bool
) -> dict[str, np.ndarray]:
    names = (*MEASURES, *OF_PAIRS) if is_start else MEASURES
    return {name: np.array([by_seed[seed][name] for seed in seeds], dtype=np.float64) for name in names}


def _cell(
    settings: MapSettings,
    world: str,
    name: str,
    cell: CellOfMap,
    values: Found,
    rates: Mapping[str, tuple[float | None, float | None]],
) -> dict[str, Any]:
    baseline = values[settings.baseline]["reward"]
    gains = paired_effect(baseline - values[START]["reward"])
    # A gain that is not clearly one is no unit to measure effects in.
    gain = gains.estimate if gains.low > 0 else None
    others = [arm for arm in values if arm not in (START, settings.baseline)]
    effects = {arm: paired_effect(values[arm]["reward"] - baseline) for arm in others}
    adjusted = holm_within(effects)
    start = values[START]
    return {
        "world": world,
        "name": name,
        "kind": "controlled" if isinstance(cell.pairs, Cell) else "natural",
        **asdict(cell.pairs),
        "epochs": cell.epochs,
        "learning_rate": cell.learning_rate,
        "measured": {one: _number(start[one].mean()) for one in OF_PAIRS},
        "quality": _numbers(start["hard_quality"]),
        "gain": _effect(gains, None),
        "arms": {
            arm: {
                "learning_rate": rates[arm][0],
                "beta": rates[arm][1],
                "rewards": _numbers(of_arm["reward"]),
                "means": {one: _number(of_arm[one].mean()) for one in MEASURES},
                "deviation": _number(of_arm["reward"].std(ddof=1)),
            }
            for arm, of_arm in values.items()
        },
        "effects": {
            arm: {
                **_effect(one, gain),
                "p_adjusted": _number(adjusted[arm]),
                "by_base": by_base(values[arm]["reward"] - baseline, settings.seeds, BASES),
                "greedy": _effect(paired_effect(values[arm]["greedy"] - values[settings.baseline]["greedy"]), None),
            }
            for arm, one in effects.items()
        },
        "contrasts": {
            label: {
                **_effect(paired_effect(_mean(values, one.arms) - _mean(values, one.against)), gain),
                "by_base": by_base(_mean(values, one.arms) - _mean(values, one.against), settings.seeds, BASES),
                "greedy": _effect(
                    paired_effect(_mean(values, one.arms, "greedy") - _mean(values, one.against, "greedy")), None
                ),
            }
            for label, one in settings.contrasts.items()
            if {*one.arms, *one.against} <= values.keys()
        },
    }


def _mean(values: Found, arms: Sequence[str], measure: str = "reward") -> np.ndarray:
    mean: np.ndarray = np.mean([values[arm][measure] for arm in arms], axis=0)
    return mean


def _effect(effect: PairedEffect, gain: float | None) -> dict[str, Any]:
    """Return an effect, and in `of_gain` its estimate and both ends in per cent of the baseline's gain."""
    values = (effect.estimate, effect.low, effect.high)
    return {
        **{name: _number(getattr(effect, name)) for name in ("estimate", "low", "high", "p_value", "detectable")},
        **({} if gain is None else {"of_gain": [round(100 * value / gain, 2) for value in values]}),
    }


def _break_evens(settings: MapSettings, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row of cells that differ in quality alone where the crossing's effect is zero.

    Once by quality, once by quality less the level of `against` there.
    """
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    arm, against = settings.crossing.arm, settings.crossing.against
    axes = (
        "world", "hard_labels_right", "easy_labels_right", "hard_share", "hard_source", "epochs", "learning_rate",
    )  # fmt: skip
    for cell in cells:
        if cell["kind"] == "controlled" and {arm, against} <= cell["arms"].keys():
            rows[tuple(cell[axis] for axis in axes)].append(cell)
    found = []
    for key, row in rows.items():
        if len(row) < 3:
            continue
        row = sorted(row, key=lambda cell: cell["hard_quality"])
        quality, level, helped = (
            np.array([of_cell(cell) for cell in row], dtype=np.float64).T
            for of_cell in (
                lambda cell: cell["quality"],
                lambda cell: cell["arms"][against]["rewards"],
                lambda cell: cell["arms"][arm]["rewards"],
            )
        )
        found.append(
            {
                **dict(zip(axes, key, strict=True)),
                "cells": [cell["name"] for cell in row],
                "level": _number(level.mean()),
                "quality": asdict(break_even(quality, helped - level)),
                "surplus": asdict(break_even(quality - level, helped - level)),
            }
        )
    return found


def _number(value: float) -> float | None:
    """Round for the file; what is not finite, as of a policy that broke, is null."""
    return round(float(value), 5) if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]
