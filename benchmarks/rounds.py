"""Rounds of SmolLM2-135M-Instruct on prompts with verifiable constraints: the figures of docs/rounds.md.

    python benchmarks/rounds.py runs/rounds-benchmark [--prompts 120] [--held-out 156] [--rounds 2]

Writes prompts.jsonl and held-out.jsonl into the folder: the demo's tasks, each with several sets of constraints; tasks
of the held-out prompts are in no other. Then runs recipes/smollm2-135m-rounds.yaml on them, where it was stopped if it
was, and writes results/rounds.json, with intervals that resample tasks.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from arms import RESULTS, conditions

from mixdpo.common.files import write_json
from mixdpo.common.statistics import Interval, clustered_mean
from mixdpo.common.table_files import read_json_rows, write_json_lines
from mixdpo.common.tables import as_markdown
from mixdpo.evaluation.constraints import constraints_to_text, prompt_text, sample_constraints
from mixdpo.evaluation.held_out_prompts import read_held_out
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.rounds import run_rounds
from mixdpo.recipe.rounds_results import rounds_table
from mixdpo.study.demo.smollm2 import smollm2_folder

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "smollm2-135m-rounds.yaml"
SEED = 0


def prompt_rows(tasks: Iterable[str], count: int) -> list[dict[str, Any]]:
    """Return `count` different prompts, every task with as many sets of constraints as the others, up to one."""
    rng = random.Random(SEED)
    rows: dict[str, dict[str, Any]] = {}
    for task in chain.from_iterable(repeat(list(dict.fromkeys(tasks)))):
        constraints = sample_constraints(rng)
        text = prompt_text(task, constraints)
        rows.setdefault(text, {"id": "", "prompt": text, "task": task, "demands": constraints_to_text(constraints)})
        if len(rows) == count:
            return [{**row, "id": f"p{number}"} for number, row in enumerate(rows.values())]
    raise AssertionError("the tasks do not end")


def gains(folder: Path, rounds: int, tasks: list[str]) -> dict[str, Interval]:
    """Return the mean differences in constraints met between the models, on the held-out prompts."""
    compared = [
        read_json_rows(folder / f"round-{number}" / "held-out.compared.jsonl") for number in range(1, rounds + 1)
    ]
    met = {"start": _ratings(compared[0], "start")}
    met |= {f"round {number}": _ratings(rows, "newest") for number, rows in enumerate(compared, start=1)}
    names = list(met)
    return {
        f"{second} - {first}": _gain(met[second] - met[first], tasks)
        for first, second in [*(("start", name) for name in names[1:]), *pairwise(names[1:])]
    }


def _ratings(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    # An empty answer is not rated, and meets nothing.
    return np.array([row[f"rating/{name}"] or 0.0 for row in rows])


def _gain(differences: np.ndarray, tasks: list[str]) -> Interval:
    return clustered_mean(differences, tasks, rng=np.random.default_rng(SEED), resamples=10_000)


def main() -> None:
    """Run the rounds and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--held-out", type=int, default=156)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()

    folder: Path = arguments.output
    held_out = prompt_rows(read_held_out("test").tasks, arguments.held_out)
    write_json_lines(folder / "held-out.jsonl", held_out)
    write_json_lines(folder / "prompts.jsonl", prompt_rows(read_held_out("train").tasks, arguments.prompts))
    began = time.perf_counter()
    changes = {
        "model": {"name_or_path": str(smollm2_folder())},
        "pairs": {
            "prompts": str(folder / "prompts.jsonl"),
            "held_out": str(folder / "held-out.jsonl"),
            "judge": {"judge": shlex.join([sys.executable, str(ROOT / "scripts" / "demo_judge.py")])},
        },
    }
    results = run_rounds(load_recipe(RECIPE, changes), arguments.rounds, folder / "rounds")
    found = gains(folder / "rounds", arguments.rounds, [row["task"] for row in held_out])
    record = {
        **conditions(),
        "prompts": arguments.prompts,
        "held_out": arguments.held_out,
        "seconds": round(time.perf_counter() - began),
        "gains": {name: asdict(gain) for name, gain in found.items()},
        "rounds": [asdict(one) | {"model": Path(one.model).name} for one in results],
    }
    write_json(RESULTS / "rounds.json", record)
    print(as_markdown(rounds_table(results)))
    for name, gain in found.items():
        print(f"constraints met, {name}: {gain}, bootstrap over tasks")


if __name__ == "__main__":
    main()
