"""Real pairs and the real SmolLM2 through a recipe, as a user would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixdpo import Plan
from mixdpo.cli.main import main
from mixdpo.training.run_folder import logged_metrics

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_alpaca_graded_trains_by_its_recipe(smollm2, alpaca_graded, tmp_path) -> None:
    changes = ["--model.name_or_path", str(smollm2), "--data.max_pairs", "12", "--train.logging_steps", "1"]
    changes += ["--plan.threshold", json.dumps({"hardest": 0.25}), "--train.save_strategy", '"no"']
    recipe = ROOT / "recipes" / "smollm2-135m-graded.yaml"
    data = str(alpaca_graded / "train.parquet")
    assert main(["train", data, "--config", str(recipe), "--output", str(tmp_path / "run"), *changes]) == 0
    logs = [record for record in logged_metrics(tmp_path / "run") if "loss" in record]
    assert [log["route/sft"] for log in logs] == [0.0, 0.75]
    assert logs[0]["loss/preference"] == pytest.approx(np.log(2), abs=0.03)
    assert 0.5 < logs[1]["loss/sft"] < 3, "nats per token of SmolLM2 on GPT-4-judged answers"
    assert Plan.load(tmp_path / "run" / "plan.parquet").summary()[1]["pairs"] == 3
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_size > 5e8
