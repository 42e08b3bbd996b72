"""`mixdpo advise` as a person uses it: the table, the command it prints, the file, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from mixdpo import Plan
from mixdpo.cli.main import main
from rules import ship
from synthetic import chat_rows
from tiny import tiny_llama


@pytest.fixture
def data(tmp_path) -> Path:
    """Sixty pairs, of which a sixth is tied."""
    path = tmp_path / "my pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(60)))
    return path


def test_the_command_it_prints_trains_as_advised(capsys, tmp_path, tokenizer, data, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ship(monkeypatch, sft=30, smoothed=0, drop=10)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    output = tmp_path / "advice.json"
    given = ["--plan.least_effect", "1", "--train.max_steps", "2", "--train.bf16", "false", "--train.use_cpu", "true"]
    assert main(["advise", str(data), "--output", str(output), *given]) == 0
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith(("│", "┃", "┏"))]
    assert table
    assert max(map(len, table)) <= 80
    assert "drop" in printed
    found = json.loads(output.read_text())
    assert found["parts"][0]["route"] == "drop"
    assert found["measurements"] == [] or found["measurements"][0]["of"] == "quality"
    (line,) = (line for line in printed.splitlines() if line.startswith("next: "))
    assert line == f"next: {found['command']}"
    assert "--plan.least_effect 1" in line
    command = line.removeprefix("next: mixdpo ").replace("MODEL", str(tmp_path / "model"))
    assert main(shlex.split(command.replace("RUN", str(tmp_path / "run")))) == 0
    plan = Plan.load(tmp_path / "run" / "plan.parquet")
    assert plan.advice is not None
    assert plan.advice.to_dict()["parts"] == found["parts"]


def test_the_plan_prints_its_advice(capsys, tmp_path, data) -> None:
    assert main(["plan", str(data), "--plan", "advised", "--output", str(tmp_path / "plan.parquet")]) == 0
    printed = capsys.readouterr().out
    assert "advice by margin of rating" in printed
    assert "not known" in printed


def test_where_nothing_matters_it_is_dpo(capsys, data) -> None:
    assert main(["advise", str(data), "--plan.least_effect", "90"]) == 0
    printed = capsys.readouterr().out
    assert "hardly matters" in printed
    assert "--plan.name dpo" in printed
    assert "least_effect" not in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--plan.name", "dpo"], "plan.name"),
        (["--plan.threshold", "1"], "threshold"),
        (["--plan.trained_policy", "dpo"], "quality/dpo/chosen"),
        (["--plan.least_effect", "-1"], "least_effect"),
        (["--plan.metric", "nll_gap"], "mixdpo score"),
        (["--output", "/"], "/"),
    ],
)
def test_refused(capsys, data, given, says) -> None:
    assert main(["advise", str(data), *given]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("mixdpo: ") == 1


def test_it_needs_data(capsys) -> None:
    assert main(["advise"]) == 2
    assert "no data is given" in capsys.readouterr().err
