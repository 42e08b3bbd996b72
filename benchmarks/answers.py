"""A policy that answers prompts while it is trained: figures of docs/training.md, "Answers while it trains".

    python benchmarks/answers.py runs/answers-benchmark [--prompts 24] [--pairs 40] [--learning-rate 1e-4]

Writes prompts.jsonl into the folder: tasks of the demo that nothing is trained on, with constraints that a program
counts. Then trains SmolLM2-135M-Instruct by the demo's recipe on so many pairs, four a step, has it answer the prompts
every two steps, keeps the model of the best win rate, and writes results/answers.json.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from arms import RESULTS, conditions
from rounds import prompt_rows

from mixdpo.common.files import write_json
from mixdpo.common.table_files import write_json_lines
from mixdpo.evaluation.held_out_prompts import DATA, read_held_out
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.runs import train_from_recipe
from mixdpo.study.demo.demo import RECIPE
from mixdpo.study.demo.smollm2 import smollm2_folder

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run it and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    arguments = parser.parse_args()

    folder: Path = arguments.output
    write_json_lines(folder / "prompts.jsonl", prompt_rows(read_held_out("test").tasks, arguments.prompts))
    judge = shlex.join([sys.executable, str(ROOT / "scripts" / "demo_judge.py")])
    changes = {
        "model": {"name_or_path": str(smollm2_folder())},
        "data": {"path": str(DATA / "train.parquet"), "max_pairs": arguments.pairs},
        "train": {
            "learning_rate": arguments.learning_rate, "gradient_accumulation_steps": 1,
            "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best",
            "load_best_model_at_end": True, "metric_for_best_model": "answers/win_rate",
        },
        "answers": {
            "prompts": str(folder / "prompts.jsonl"), "max_new_tokens": 64, "batch_size": 24,
            "judge": {"judge": judge, "kind": "program"},
        },
    }  # fmt: skip
    began = time.perf_counter()
    run = train_from_recipe(load_recipe(str(RECIPE), changes), output=str(folder / "run"))
    evaluations = [
        {name.removeprefix("eval_answers/"): value for name, value in line.items() if name != "epoch"}
        for line in run.metrics
        if "eval_answers/tokens" in line
    ]
    record = {
        **conditions(), "prompts": arguments.prompts, "pairs": arguments.pairs,
        "learning_rate": arguments.learning_rate, "seconds": round(time.perf_counter() - began),
        "evaluations": evaluations,
    }  # fmt: skip
    write_json(RESULTS / "answers.json", record)
    for line in evaluations:
        print({name: round(value, 3) for name, value in line.items()})


if __name__ == "__main__":
    main()
