"""What answers at once imports no model library: help, wrong settings, and the commands that run no model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic import chat_rows

HEAVY = ("torch", "transformers", "peft", "accelerate")
SMALL = (
    *("audit", "clean", "compare", "demo", "eval", "generate", "map", "merge", "pairs", "plan", "rate", "reference"),
    *("rounds", "score", "study", "tokens", "train", "versus"),
)
# Runs command lines in one process, and says which of the package's lines a heavy import came from.
WATCH = f"""
import importlib.abc, json, sys, traceback

class Watch(importlib.abc.MetaPathFinder):
    asked = {{}}
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            lines = [f"{{one.filename}}:{{one.lineno}}" for one in traceback.extract_stack()]
            self.asked[name] = [line for line in lines if "mixdpo" in line] or lines

sys.meta_path.insert(0, Watch())
from mixdpo.cli.main import main

for words, status in json.loads(sys.argv[1]):
    found = main(words)
    assert found == status, (words, found)
    for name in {HEAVY!r}:
        if name in sys.modules:
            sys.exit(f"mixdpo {{' '.join(words)}} imports {{name}}, from {{Watch.asked[name][-1]}}")
"""


def run_without_models(*commands: tuple[list[str], int]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(commands)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_help() -> None:
    assert "Commands:" in run_without_models(([], 2), (["--help"], 0), *(([name, "--help"], 0) for name in SMALL))


@pytest.mark.parametrize("command", ["plan", "train"])
def test_wrong_settings(command: str) -> None:
    run_without_models(
        ([command, "pairs.jsonl", "--plan.ordr", "shuffled"], 2),
        ([command, "pairs.jsonl", "--plan", "mixdp"], 2),
        ([command, "pairs.jsonl", "--plan.seed", "many"], 2),
        ([command, "pairs.jsonl", "--data.max_pairs", "[1]"], 2),
        ([command, "pairs.jsonl", "--score.nll_gap.batch", "3"], 2),
        ([command, "pairs.jsonl", "--score.nll", "{}"], 2),
        ([command, "pairs.jsonl", "--audit.seed", "-1"], 2),
        ([command, "--config", "no-such.yaml"], 2),
        (["score", "pairs.jsonl", "--metric", "nll"], 2),
        (["generate", "prompts.jsonl", "--output", "answers.jsonl"], 2),
    )


@pytest.mark.slow
def test_audit_clean_and_plan(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [{**row, "score_chosen": 2.0 + n % 3, "score_rejected": 1.0} for n, row in enumerate(chat_rows(12))]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    report, cleaned, plan = (str(tmp_path / name) for name in ("report", "cleaned.parquet", "plan.parquet"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{path: {pairs}}}\nplan: mixdpo\n")
    run_without_models(
        (["plan", "--config", str(recipe), "--output", plan], 0),
        (["audit", str(pairs), "--output", report], 0),
        (["clean", str(pairs), "--report", report, "--apply", "duplicates", "--output", cleaned], 0),
    )
