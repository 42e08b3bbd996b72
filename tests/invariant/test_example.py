"""The flat example is an implementation of its own; the trainer must agree with it."""

from __future__ import annotations

import copy

import mixdpo_loop
import pytest
from datasets import Dataset

from mixdpo import load_pairs, make_plan, score
from synthetic import chat_rows
from tiny import tiny_llama
from trainers import step_logs, trainer_for


def test_trainer_gives_the_examples_losses(tokenizer, tmp_path, monkeypatch, capsys) -> None:
    rows = chat_rows(40)
    for i, row in enumerate(rows):
        row["score_chosen"] = row["score_rejected"] + i / 10  # no equal margins, whose order is a matter of the seed
    monkeypatch.setattr(mixdpo_loop, "LEARNING_RATE", 1e-3)
    monkeypatch.setattr(mixdpo_loop, "HARDEST", 0.25)
    model = tiny_llama(vocab_size=len(tokenizer))
    expected = mixdpo_loop.train(copy.deepcopy(model), tokenizer, rows)

    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    pairs = score(load_pairs(str(tmp_path / "rows.parquet")))
    plan = make_plan(pairs, threshold={"hardest": 0.25})
    trainer_for(model, tokenizer, pairs, tmp_path / "run", plan, per_device_train_batch_size=8).train()
    actual = [log["loss"] for log in step_logs(tmp_path / "run")]
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert "SFT 8/8" in capsys.readouterr().out
