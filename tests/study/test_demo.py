"""The demo's flow on a tiny model, and what it says of its result."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixdpo.cli.main import main
from mixdpo.common.statistics import Interval
from mixdpo.evaluation import held_out_prompts
from mixdpo.evaluation.constraints import constraints_from_text, constraints_met
from mixdpo.generation.chat_model import Completion
from mixdpo.generation.generation_settings import SamplingSettings
from mixdpo.study.demo import demo as run
from tiny import tiny_llama


@pytest.mark.figure
@pytest.mark.slow
def test_short_demo_with_a_model_of_ones_own(tokenizer, tmp_path, monkeypatch, capsys) -> None:
    tiny_llama(vocab_size=len(tokenizer), positions=1024).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(held_out_prompts, "GENERATION", SamplingSettings(max_new_tokens=8, batch_size=8))
    arguments = ["demo", "--short", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "demo")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "8 held-out prompts" in out
    assert "before: 0 of 3" in out, "answers before and after, side by side"
    result = json.loads((tmp_path / "demo" / "demo.json").read_text())
    answers = pq.read_table(tmp_path / "demo" / "answers.parquet").to_pylist()
    held_out = pq.read_table(str(run.DATA / "test.parquet")).to_pylist()[:8]
    for side in ("before", "after"):
        met = [
            constraints_met(answer[side], constraints_from_text(row["demands"]))
            for answer, row in zip(answers, held_out, strict=True)
        ]
        assert result[f"demands_met_{side}"] == pytest.approx(np.mean(met))
    for name in ("demo.png", "demo.svg", "training.png", "run.json", "model/config.json"):
        assert (tmp_path / "demo" / name).exists()
    assert main(arguments) == 2
    assert "holds another run" in capsys.readouterr().err

    assert main(["compare", str(tmp_path / "demo"), "--output", str(tmp_path / "comparison")]) == 0
    compared = {
        one["benchmark"]: one
        for one in json.loads((tmp_path / "comparison" / "comparison.json").read_text())["benchmarks"]
    }
    demands = compared["demands"]["models"]
    assert demands["demo"]["metrics"]["demands_met"] == pytest.approx(result["demands_met_after"])
    assert demands["demo before training"]["metrics"]["demands_met"] == pytest.approx(result["demands_met_before"])
    assert compared["demands"]["differences"]["demands_met"][0]["gain"]["estimate"] == pytest.approx(
        abs(result["gain"]["estimate"])
    )
    assert "loss" in compared["training, last logged"]["models"]["demo"]["metrics"]


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.1, 0.5, "helped"), (-0.1, 0.5, "not clear of zero"), (-0.5, -0.1, "did harm")]
)
def test_verdict_says_what_the_interval_allows(low: float, high: float, words: str) -> None:
    assert words in run.verdict(Interval(estimate=(low + high) / 2, low=low, high=high, level=0.95))


def test_held_out_prompts_are_not_trained_on() -> None:
    train = {row["prompt"][-1]["content"] for row in pq.read_table(str(run.DATA / "train.parquet")).to_pylist()}
    for split in ("validation", "test"):
        held_out = run.read_held_out(split)
        assert not train & {prompt[-1]["content"] for prompt in held_out.prompts}
        assert all(len(demands) == 3 for demands in held_out.constraints)


def test_comparison_counts_constraints_of_each_prompt() -> None:
    held_out = run.read_held_out("test", limit=3)
    empty = [Completion(text="", tokens_out=0, finished=True)] * 3
    some = [Completion(text="A short answer.", tokens_out=4, finished=True)] * 3
    result = run.compare_answers(empty, some, held_out)
    assert result.met_before.tolist() == [0, 0, 0]
    assert result.gain.estimate == pytest.approx(result.met_after.mean())


def test_prompts_of_a_task_are_not_taken_for_independent(monkeypatch) -> None:
    """Gains that are those of tasks leave as much uncertainty as a mean of so many tasks has, not of prompts."""
    held_out = run.read_held_out("test")
    tasks = [prompt[-1]["content"].split(".")[0] for prompt in held_out.prompts]
    gain = {task: float(number % 2) for number, task in enumerate(dict.fromkeys(tasks))}
    counts = iter([np.zeros(len(tasks)), np.array([gain[task] for task in tasks])])
    monkeypatch.setattr(run, "count_met", lambda *_: next(counts))
    found = run.compare_answers([], [], held_out).gain
    assert found.estimate == pytest.approx(0.5)
    error = np.std(list(gain.values())) / np.sqrt(len(gain))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
