"""Choose the demo's settings on its validation prompts; the test prompts are not touched.

    python scripts/tune_demo.py OUTPUT [--train.learning_rate 2e-5 ...]

Trains the demo's recipe with the given changes and prints the constraints met on the validation
prompts before and after.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from mixdpo.common.settings import SECTIONS, merge, split_overrides
from mixdpo.evaluation.held_out_prompts import DATA, answer_held_out, read_held_out
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.runs import train_from_recipe
from mixdpo.study.demo.demo import RECIPE, compare_answers
from mixdpo.study.demo.smollm2 import smollm2_folder


def main() -> None:
    """Train and measure once."""
    (output,), changes = split_overrides(sys.argv[1:], SECTIONS)
    model = str(smollm2_folder())
    held_out = read_held_out("validation")
    base = {"model": {"name_or_path": model}, "data": {"path": str(DATA / "train.parquet")}}
    before = answer_held_out(model, held_out)
    began = time.perf_counter()
    train_from_recipe(load_recipe(str(RECIPE), merge(base, changes)), output=output)
    seconds = time.perf_counter() - began
    result = compare_answers(before, answer_held_out(str(Path(output) / "model"), held_out), held_out)
    record = {
        "changes": changes,
        "before": result.met_before.mean(),
        "after": result.met_after.mean(),
        "gain": str(result.gain),
        "finished": sum(answer.finished for answer in result.after) / len(result.after),
        "training_seconds": round(seconds),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
