"""Verifiable constraints of answers in files and of models."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixdpo.cli.main import main
from mixdpo.evaluation.constraints import constraints_from_text, constraints_met
from mixdpo.evaluation.held_out_prompts import DATA
from tiny import tiny_llama


@pytest.fixture
def models(tmp_path, tokenizer) -> list[str]:
    for seed in (0, 1):
        tiny_llama(seed, vocab_size=len(tokenizer), positions=1024).save_pretrained(tmp_path / f"model{seed}")
        tokenizer.save_pretrained(tmp_path / f"model{seed}")
    return [str(tmp_path / f"model{seed}") for seed in (0, 1)]


def test_demands_of_files_and_models(tmp_path, models, capsys, monkeypatch) -> None:
    from mixdpo.evaluation import held_out_prompts
    from mixdpo.generation.generation_settings import SamplingSettings

    monkeypatch.setattr(held_out_prompts, "GENERATION", SamplingSettings(max_new_tokens=4, batch_size=8))
    held_out = pq.read_table(str(DATA / "test.parquet")).to_pylist()[:30]
    texts = {"good": "WELL! Is this 1 good? (yes) **bold**", "empty": ""}
    for name, text in texts.items():
        rows = [{"prompt": row["prompt"], "answer": text} for row in held_out[::-1]]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [str(tmp_path / "good.jsonl"), f"none={tmp_path / 'empty.jsonl'}", models[0]]
    out = tmp_path / "out.json"
    assert main(["eval", "demands", *sources, "--limit", "30", "--output", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record["models"]) == ["good", "none", "model0"]
    met = [constraints_met(texts["good"], constraints_from_text(row["demands"])) for row in held_out]
    good = record["models"]["good"]
    assert good["demands_met"] == pytest.approx(np.mean(met))
    assert record["models"]["none"]["demands_met"] == 0
    assert record["models"]["none"]["flags"] == ["empty: 100 % of answers"]
    gain = record["differences"][0]
    low, high = good["demands_met_interval"]
    assert (gain["first"], gain["second"]) == ("good", "none")
    items = pq.read_table(tmp_path / record["items"]).to_pylist()
    assert [row["score"] for row in items[:30]] == met
    by_task: dict[str, list[float]] = {}
    for row in items[:30]:
        assert row["prompt"].startswith(row["group"])
        by_task.setdefault(row["group"], []).append(row["score"])
    assert len(by_task) == 26, "some come more than once"
    means = [np.mean(values) for values in by_task.values()]
    assert gain["gain"]["estimate"] == pytest.approx(-np.mean(means))
    residuals = [sum(values) - len(values) * np.mean(met) for values in by_task.values()]
    error = np.sqrt(np.sum(np.square(residuals))) / len(met)  # of a mean over clusters, linearised
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert gain["worse"] == sum(mean > 0 for mean in means)
    assert main(["compare", str(out), "--output", str(tmp_path / "compared")]) == 0
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())["benchmarks"][0]
    gains = {frozenset((one["first"], one["second"])): one["gain"] for one in compared["differences"]["demands_met"]}
    assert abs(gains[frozenset(("good", "none"))]["estimate"]) == pytest.approx(np.mean(means)), "by task there too"
    assert "p (Holm)" in capsys.readouterr().out

    assert main(["eval", "demands", sources[0], "--output", str(out)]) == 2
    assert "48 of 78 held-out prompts have no answer" in capsys.readouterr().err
    assert main(["eval", "demands", sources[0], sources[0], "--limit", "10", "--output", str(out)]) == 2
    assert "NAME=SOURCE" in capsys.readouterr().err
