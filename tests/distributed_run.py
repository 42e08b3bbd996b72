"""What each of two processes does in test_two_processes.py: trains run after run and writes down what it saw."""

from __future__ import annotations

import json
import os
from pathlib import Path

from datasets import load_from_disk

from mixdpo import Plan
from trainers import step_logs
from trajectories import trainer_of


def train_together(folder: Path) -> None:
    for label, given in json.loads((folder / "runs.json").read_text()).items():
        data = folder / "data" / given["run"]
        os.environ["MIXDPO_CACHE"] = str(folder / "cache" / given["run"])
        pairs, changes = load_from_disk(str(data / "pairs")), given["changes"]
        if "eval_strategy" in changes:
            changes["eval_dataset"] = pairs.select(range(7))
        output = folder / given["output"]
        trainer = trainer_of(given["run"], (pairs, Plan.load(data / "plan.parquet")), output, **changes)
        trainer.train(resume_from_checkpoint=given.get("resume"))
        trainer.accelerator.wait_for_everyone()
        seen = {"steps": trainer.seen.steps[:-1], "losses": [log["loss"] for log in step_logs(output)]}
        (folder / f"{label}-{os.environ['RANK']}.json").write_text(json.dumps(seen))
    trainer.accelerator.end_training()
