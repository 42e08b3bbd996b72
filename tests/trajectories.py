"""Runs of a tiny model whose trajectories are recorded in fixtures/trajectories.json.

python tests/trajectories.py    # records them anew, after a change that is meant to move them
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from mixdpo import Plan, make_plan
from synthetic import chat_pairs
from tiny import byte_level_tokenizer, tiny_llama
from trainers import RecordingTrainer, step_logs, trainer_for

RECORDED = Path(__file__).parent / "fixtures" / "trajectories.json"
SERIES = ("loss", "grad_norm", "loss/preference", "loss/sft", "rewards/margins", "logps/chosen", "route/sft")
RUNS: dict[str, dict[str, Any]] = {
    "mixdpo": {},  # 19 pairs: the last of an epoch's five steps holds three
    "rewarmed": {"phase_schedule": "rewarmed"},
    "ten pairs": {"pairs": 10},
    "kto": {"pairs": 11, "plan": {"name": "dpo"}, "loss_type": "kto", "desirable_weight": 2.0},
    "weighted": {
        "plan": {"threshold": {"hardest": 0.3}, "weight": "random", "label_probability": "column"},
        "label_smoothing": "per_pair",
    },
    "calibrated": {
        "pairs": 10,
        "loss_type": ["cpo", "dpo_shift"],
        "dpo_shift_lambda_end": 0.5,
        "reward_calibration": True,
    },
    "rate weighted": {"pairs": 10, "plan": {"name": "rate_weighted"}},
}
"""Steps of four pairs, two epochs, a learning rate that moves a tiny model, and what each run has of its own."""


def data_of(run: str, folder: Path) -> tuple[Dataset, Plan]:
    """Pairs of a run, written to and read from a file in `folder`, and their plan."""
    own = RUNS[run]
    pairs = chat_pairs(folder, n=own.get("pairs", 19))
    if run == "weighted":
        rng = np.random.default_rng(0)
        pairs = pairs.add_column("weight/random", rng.uniform(0, 2, len(pairs)).tolist())
        pairs = pairs.add_column("label_probability", rng.uniform(0, 1, len(pairs)).tolist())
    return pairs, make_plan(pairs, **own.get("plan", {"threshold": {"hardest": 0.3}}))


def trainer_of(run: str, data: tuple[Dataset, Plan], output: Path, **changes: Any) -> RecordingTrainer:
    """The run's trainer on its pairs and plan, made as ever but for `changes`, which writes to `output`."""
    tokenizer = byte_level_tokenizer()
    own = {name: value for name, value in RUNS[run].items() if name not in ("pairs", "plan")}
    settings = {"num_train_epochs": 2, **own, **changes}
    return trainer_for(tiny_llama(vocab_size=len(tokenizer)), tokenizer, data[0], output, data[1], **settings)


def trajectory(output: Path) -> dict[str, list[float | None]]:
    """The series of a run folder, one value a step; None where a step has none, as steps of SFT have no rewards."""
    return {name: [log.get(name) for log in step_logs(output)] for name in SERIES}


def assert_recorded(output: Path, run: str) -> None:
    """Every value of a finished run is the recorded one, and its losses do not drift to one side."""
    recorded = json.loads(RECORDED.read_text())
    tolerance = recorded["tolerance"]
    found, expected = trajectory(output), recorded["runs"][run]
    for name in SERIES:
        np.testing.assert_allclose(
            np.array(found[name], float), np.array(expected[name], float), err_msg=name,
            rtol=tolerance["relative"], atol=tolerance["absolute"],
        )  # fmt: skip
    gap = np.mean(np.subtract(found["loss"], expected["loss"]))
    assert abs(gap) < tolerance["drift"], "an accumulation fault is a small one-sided drift"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, runs = Path(name), {}
        for run in RUNS:
            trainer_of(run, data_of(run, folder), folder / run).train()
            runs[run] = trajectory(folder / run)
    record = {
        "made_with": {
            "machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "tolerance": {"relative": 1e-4, "absolute": 1e-5, "drift": 2e-5},
        "runs": runs,
    }  # fmt: skip
    RECORDED.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
