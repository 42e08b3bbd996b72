"""Measure which answers a policy makes likelier as it improves: the change of log-probability by quality of answers.

    python scripts/likelihood_by_quality.py studies/maps/results/map.json    # writes likelihood.json beside it

In every world of the map a policy is trained on the pairs that are not hard, as the map's arm that drops the hard ones
does. Then the hard pairs of each quality, which it has never seen, are asked for: by how many nats has the
log-probability of their chosen answers changed? Takes some minutes on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.plan.plan_settings import PLANS
from mixdpo.study.world.flat_run import flat_pairs
from mixdpo.study.world.language import Language
from mixdpo.study.world.map_crossing import crossing_cells
from mixdpo.study.world.map_execution import OWN_ANSWERS
from mixdpo.study.world.map_settings import ArmOfMap
from mixdpo.study.world.map_table import load_table
from mixdpo.study.world.measure import measure, own_answers
from mixdpo.study.world.pairs import Candidates, Cell, WorldPairs
from mixdpo.study.world.run_cell import CellRuns
from mixdpo.study.world.worlds import BASES, WORLDS, load_base

SEEDS = 6
LIKELIHOOD = Path(__file__).parents[1] / "studies" / "maps" / "results" / "likelihood.json"


def main(arguments: list[str] | None = None) -> int:
    """Write the measurement for the worlds and settings of a map."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) not in (1, 2):
        print("usage: python scripts/likelihood_by_quality.py MAP_JSON [OUTPUT_JSON]", file=sys.stderr)
        return 2
    try:
        table = load_table(Path(words[0]))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    torch.set_num_threads(1)
    worlds = [of_world(table, world, cells) for world, cells in crossing_cells(table).items()]
    lines = ",\n".join(json.dumps(one) for one in worlds)
    with atomic_path(Path(words[1]) if words[1:] else LIKELIHOOD) as temporary:
        temporary.write_text(f'{{"seeds": {table["seeds"][:SEEDS]}, "worlds": [\n{lines}\n]}}\n', encoding="utf-8")
    return 0


def of_world(table: Mapping[str, Any], world: str, cells: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return qualities (true rewards) and changes (nats per answer) of a world, a value for each seed."""
    arm = cells[0]["arms"][table["crossing"]["against"]]
    found = [of_seed(table, world, cells, arm["learning_rate"], arm["beta"], seed) for seed in table["seeds"][:SEEDS]]
    values = {name: np.round([one[name] for one in found], 5).T.tolist() for name in found[0]}
    return {"world": world, "learning_rate": arm["learning_rate"], "beta": arm["beta"], **values}


def of_seed(
    table: Mapping[str, Any], world: str, cells: list[Mapping[str, Any]], learning_rate: float, beta: float, seed: int
) -> dict[str, Any]:
    """Return what one policy makes of the answers of every cell."""
    number, count = seed % BASES, table["pairs"]
    language, base, own = _base(world, number, 2 * count)
    runs = [CellRuns(language, base, own, _pairs_of(cell), count, seed) for cell in cells]
    policy = runs[0].policy_of_rest(
        ArmOfMap(plan=PLANS["dpo"]), learning_rate, beta, cells[0]["epochs"], table["batch_size"]
    )
    # Of the easy pairs, which all cells of a seed share, those of the first cell stand for all.
    easy_quality, easy_change, easy_margin = _asked(runs[0], policy, ~runs[0].is_hard)
    qualities, changes, margins = np.transpose([_asked(of_cell, policy, of_cell.is_hard) for of_cell in runs])
    return {
        "start": measure(language, base, seed)["reward"],
        "level": measure(language, policy, seed)["reward"],
        "qualities": qualities,
        "changes": changes,
        "margin": margins.mean(),
        "easy_quality": easy_quality,
        "easy_change": easy_change,
        "easy_margin": easy_margin,
    }


def _asked(of_cell: CellRuns, policy: LlamaForCausalLM, rows: np.ndarray) -> tuple[float, float, float]:
    """Return of some pairs the mean reward of their chosen answers, its change of log-probability, and the margin."""
    pairs = WorldPairs(*(getattr(of_cell.pairs, one.name)[rows] for one in fields(WorldPairs)))
    before, after = (flat_pairs(pairs, model).reference[:, 0].mean() for model in (of_cell.base, policy))
    return float(pairs.reward_chosen.mean()), float(after - before), float(pairs.margin.mean())


def _pairs_of(cell: Mapping[str, Any]) -> Cell:
    axes = ("hard_share", "hard_quality", "hard_labels_right", "easy_labels_right", "hard_source")
    return Cell(**{axis: cell[axis] for axis in axes})


@lru_cache(maxsize=BASES)
def _base(world: str, number: int, prompts: int) -> tuple[Language, LlamaForCausalLM, Candidates]:
    language, base = WORLDS[world](), load_base(world, number)
    return language, base, own_answers(language, base, prompts, OWN_ANSWERS, number)


if __name__ == "__main__":
    sys.exit(main())
