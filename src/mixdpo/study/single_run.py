"""One run of a study, in a folder of its own: draw the pairs, train, measure, leave a record.

    python -m mixdpo.study.single_run FOLDER

`spec.json` in the folder says what to do; `result.json` is written last, so a folder that has it is finished. The
study starts each run this way, in a process of its own, so that its memory is free afterwards and that a run that
fails takes no other with it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from datasets import Dataset
from filelock import FileLock

from mixdpo.common.errors import MixdpoError
from mixdpo.common.files import atomic_path, write_json
from mixdpo.common.settings import build
from mixdpo.difficulty.scored_pairs import load_pairs
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.models.engine import hardware_has_bf16
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.make_plan import make_plan
from mixdpo.recipe.recipe_file import Recipe, load_recipe
from mixdpo.recipe.runs import train_or_resume
from mixdpo.recipe.scoring import score
from mixdpo.study.measures import measure_model
from mixdpo.study.study_file import make_task
from mixdpo.study.study_settings import SubsetSettings
from mixdpo.study.task import StudyTask
from mixdpo.training.run_folder import METRICS_FILE, versions

SPEC_FILE = "spec.json"
RESULT_FILE = "result.json"
VALUES_FILE = "values.parquet"
RUN_FOLDER = "run"


def execute_run(folder: Path) -> None:
    """Execute the run that `spec.json` in `folder` describes, unless it is done; a second process waits until it is.

    Raises:
        MixdpoError: the run failed; the folder can be run again.
    """
    with FileLock(folder / ".lock"):
        if (folder / RESULT_FILE).exists():
            return
        spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
        work = spec["work"]
        task = make_task(spec["bench"], folder / SPEC_FILE)
        start = build(ModelSettings, spec["model"], "model")
        trained = _train(folder, task, start, work["peft"], work["training"]) if work["training"] else {}
        model = _trained_model(folder, start, work["peft"]) if work["training"] else start
        began = time.perf_counter()
        measured = measure_model(
            model, start, task, work["split"], task.held_out(work["split"], folder),
            build(SamplingSettings, work["generation"], "generation"), work["limits"],
        )  # fmt: skip
        _save_table(measured.values, folder / VALUES_FILE)
        if measured.answers:
            rows = [{"text": one.text, "tokens": one.tokens_out, "finished": one.finished} for one in measured.answers]
            _save_table(pa.Table.from_pylist(rows), folder / "answers.parquet")
        if not spec["keep_models"]:
            shutil.rmtree(folder / RUN_FOLDER / "model", ignore_errors=True)
            for checkpoint in (folder / RUN_FOLDER).glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        record = {
            "key": spec["key"],
            **trained,
            "measuring_seconds": round(time.perf_counter() - began, 2),
            "scores": _means(measured.values),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        write_json(folder / RESULT_FILE, record)


def device_name() -> str:
    """Return what a run's record calls this machine's device, with the number format that it trains in."""
    other = torch.accelerator.current_accelerator(check_available=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else other.type if other else "CPU"
    return f"{device}, {'bfloat16' if hardware_has_bf16() else 'float32'}"


def choose_subset(pairs: Dataset, subset: SubsetSettings, seed: int, metric: str = "rating") -> Dataset:
    """Return the easy, middle, hard or a random part of pairs that have margins, in the order of the data.

    By margin, equal margins in an order drawn from the seed; the middle is what is left when as many of the easiest
    as of the hardest are taken away.
    """
    n = len(pairs)
    count = max(1, round(subset.share * n))
    if subset.part == "random":
        rows = np.random.default_rng([seed, 2]).permutation(n)[:count]
    else:
        order = make_plan(pairs, "dpo_sorted", metric=metric, seed=seed).epoch_rows(0, 1)
        first = {"easy": 0, "middle": (n - count) // 2, "hard": n - count}[subset.part]
        rows = order[first : first + count]
    return pairs.select(np.sort(rows))


def _train(
    folder: Path, task: StudyTask, start: ModelSettings, peft: dict[str, Any] | None, training: dict[str, Any]
) -> dict[str, Any]:
    """Train by an ordinary recipe, written as `recipe.yaml`; return what the record says of it."""
    began = time.perf_counter()
    seed = training["seed"]
    path = folder / "pairs.parquet"
    task.write_train(seed, path)
    plan = {**training["plan"], "seed": seed}
    content: dict[str, Any] = {
        "model": asdict(start),
        "data": {"path": str(path)},
        "plan": plan,
        "train": {
            "save_strategy": "no",
            **training["train"],
            "seed": seed,
            "output_dir": str(folder / RUN_FOLDER),
        },
    } | ({"peft": peft} if peft else {})
    recipe = load_recipe(None, content)
    pairs = _scored(load_pairs(str(path)), recipe, training["score"])
    if training["subset"] is not None:
        pairs = choose_subset(pairs, build(SubsetSettings, training["subset"], "subset"), seed, plan["metric"])
    with atomic_path(path) as temporary:
        pairs.to_parquet(temporary)
    with atomic_path(folder / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    run = folder / RUN_FOLDER
    if not (run / "model").is_dir():
        train_or_resume(recipe, run)
    metrics = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    updates = max(int(line["step"]) for line in metrics)
    batch = recipe.training_config()
    return {
        "training_seconds": round(time.perf_counter() - began, 2),
        "pairs": len(pairs),
        "updates": updates,
        "pairs_trained": updates * batch.per_device_train_batch_size * batch.gradient_accumulation_steps,
        "routes": json.loads((run / "run.json").read_text(encoding="utf-8"))["plan"]["routes"],
    }


def _scored(pairs: Dataset, recipe: Recipe, extra: list[str]) -> Dataset:
    """Add the margins that the plan and its threshold ask for."""
    for name in dict.fromkeys(["rating", recipe.plan.metric, *extra]):
        if f"margin/{name}" not in pairs.column_names:
            pairs = score(pairs, name, **recipe.metric_parameters(name))
    return pairs


def _trained_model(folder: Path, start: ModelSettings, peft: dict[str, Any] | None) -> ModelSettings:
    saved = str(folder / RUN_FOLDER / "model")
    return replace(start, adapter=saved) if peft else replace(start, name_or_path=saved, revision=None)


def _means(values: pa.Table) -> dict[str, float]:
    means = values.group_by("measure").aggregate([("value", "mean")])
    return dict(zip(means["measure"].to_pylist(), pc.round(means["value_mean"], 6).to_pylist(), strict=True))


def _save_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _main() -> int:
    """Execute the run of the folder named on the command line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    datasets.disable_progress_bars()
    try:
        execute_run(Path(sys.argv[1]))
    except MixdpoError as error:
        print(f"mixdpo: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _end_with_parent() -> None:
    """Wait until the study's end of standard input closes, and end."""
    os.read(0, 1)
    if os.getpgrp() == os.getpid():  # what it started, such as a judge, ends with it
        os.killpg(0, signal.SIGTERM)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(_main())
