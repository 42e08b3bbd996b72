"""A map in small: what every treatment of hard pairs is worth in every cell, as the rule that advises plans reads it.

The rule has no rewards of its user's data, but it can know how often labels are right, and how good chosen answers are
against two policies. So cells are placed by that: by P, and by the surplus

    u = (quality of the hard pairs' chosen answers - level) / (level - start)

where the level is the reward of the policy that the other pairs give at equal updates. u has no unit: it is 0 for
answers as good as that policy's and -1 for answers as good as the start's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, Final

import numpy as np

from mixdpo.plan.rule_table import VERSION
from mixdpo.study.world.map_effects import paired_effect
from mixdpo.study.world.map_settings import START

ARMS: Final = {
    "drop": "dropped, equal updates",
    "smoothed": "smoothed by P",
    "sft": "SFT mixed in",
    "sft_last": "MixDPO as published",
}
"""The arm of every treatment, by the name that advice gives it."""
_AXES: Final = ("hard_share", "hard_quality", "hard_source", "epochs", "learning_rate")
_PLACED: Final = ("world", "name", "hard_share", "hard_quality", "hard_source", "epochs", "learning_rate")


def rule_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule's table of a map, JSON-ready.

    Args:
        table: what `map.json` holds.

    Returns:
        `cells`: those of controlled pairs whose other labels are right and in which the baseline clearly gains, each
        with its `right` (P), its `surplus`, and of each treatment in `effects` what it gains over the baseline
        (estimate, low, high, in per cent of the baseline's gain); `wrong_labels`: by world and kind of pair
        (`easy`, `hard`) what every per cent of all pairs costs whose label is wrong, in the same unit.
    """
    return {
        "version": VERSION,
        "map": {name: table[name] for name in ("name", "pairs")} | {"seeds": len(table["seeds"])},
        "arms": {"preference": table["baseline"], **ARMS},
        "cells": [_placed(cell) for cell in table["cells"] if _says_something(cell)],
        "wrong_labels": list(_wrong_labels(table)),
    }


def surplus_of(cell: Mapping[str, Any]) -> float:
    """Return the surplus of a cell's hard chosen answers."""
    level = cell["arms"][ARMS["drop"]]["means"]["reward"]
    return float((cell["measured"]["hard_quality"] - level) / (level - cell["arms"][START]["means"]["reward"]))


def _says_something(cell: Mapping[str, Any]) -> bool:
    if cell["kind"] != "controlled" or cell["easy_labels_right"] < 1:
        return False
    return all("of_gain" in cell["effects"].get(arm, {}) for arm in ARMS.values())


def _placed(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: cell[name] for name in _PLACED},
        "right": cell["hard_labels_right"],
        "surplus": round(surplus_of(cell), 3),
        "effects": {treatment: cell["effects"][arm]["of_gain"] for treatment, arm in ARMS.items()},
    }


def _wrong_labels(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what wrong labels cost the baseline, from pairs of cells that differ in nothing else."""
    cells = [cell for cell in table["cells"] if cell["kind"] == "controlled"]
    for clean, noisy in permutations(cells, 2):
        if clean["world"] != noisy["world"] or any(clean[axis] != noisy[axis] for axis in _AXES):
            continue
        lost = {kind: clean[f"{kind}_labels_right"] - noisy[f"{kind}_labels_right"] for kind in ("easy", "hard")}
        kind = max(lost, key=lambda one: lost[one])
        clear = clean["gain"]["low"] > 0 and min(clean["easy_labels_right"], clean["hard_labels_right"]) == 1
        if not clear or lost[kind] <= 0 or min(lost.values()) != 0:
            continue
        pairs = clean["hard_share"] if kind == "hard" else 1 - clean["hard_share"]
        rewards = (np.array(cell["arms"][table["baseline"]]["rewards"]) for cell in (clean, noisy))
        effect = paired_effect(np.subtract(*rewards))
        scale = clean["gain"]["estimate"] * lost[kind] * pairs
        cost = [round(value / scale, 3) for value in (effect.estimate, effect.low, effect.high)]
        yield {"world": clean["world"], "kind": kind, "clean": clean["name"], "noisy": noisy["name"], "cost": cost}
