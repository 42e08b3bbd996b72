"""Two processes over gloo: every optimizer step sees the pairs, and gives the loss, that one process would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixdpo import make_plan
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import step_logs, trainer_for


def torchrun(folder: Path, *arguments: str) -> None:
    script = Path(__file__).parents[1] / "distributed_run.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(
        [*command, str(folder), *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_equal_one(tokenizer, tmp_path, monkeypatch) -> None:
    pairs = chat_pairs(tmp_path, n=19)  # the last step is not full, and one process has less of it
    plan = make_plan(pairs, threshold={"hardest": 0.3})
    pairs.save_to_disk(str(tmp_path / "pairs"))
    plan.save(tmp_path / "plan.parquet")
    one = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, tmp_path / "one", plan, num_train_epochs=2,
        eval_dataset=pairs.select(range(7)), eval_strategy="epoch",
    )  # fmt: skip
    one.train()

    # Two processes find a part of the reference in the cache and compute the rest together.
    monkeypatch.setenv("MIXDPO_CACHE", str(tmp_path / "cache"))
    part = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs.select(range(7)), tmp_path / "part",
        make_plan(pairs.select(range(7)), "dpo"),
    )  # fmt: skip
    part.precompute_reference(part.train_dataset, "train")
    torchrun(tmp_path)
    (cache,) = (tmp_path / "cache" / "reference").glob("*.parquet")
    computed = {*np.flatnonzero(~plan.is_hard), *range(7)}
    assert pq.read_metadata(cache).num_rows == len(computed) > 7
    for name in ("train", "eval"):
        a, b = (pq.read_table(tmp_path / n / "reference" / f"{name}.parquet") for n in ("one", "two"))
        for side in ("ref_chosen", "ref_rejected"):
            np.testing.assert_allclose(a[side].to_numpy(), b[side].to_numpy(), rtol=1e-5)
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    together = [sorted(a + b) for a, b in zip(*seen, strict=True)]
    assert together == [sorted(step) for step in one.seen.steps[:-1]]
    logs = [step_logs(tmp_path / name) for name in ("one", "two")]
    for name in ("loss", "grad_norm", "learning_rate", "route/sft"):
        np.testing.assert_allclose(*[[m[name] for m in log] for log in logs], rtol=1e-4, atol=1e-6, err_msg=name)
    for epoch in (5, 10):
        a, b = (pq.read_table(tmp_path / n / "records" / f"eval-step-{epoch}.parquet") for n in ("one", "two"))
        assert a["pair_id"] == b["pair_id"]
        np.testing.assert_allclose(a["chosen"], b["chosen"], atol=1e-3)

    torchrun(tmp_path, "--resume")
    for rank in (0, 1):
        resumed = json.loads((tmp_path / f"seen-{rank}-resumed.json").read_text())
        assert resumed == seen[rank][5:]
    again = step_logs(tmp_path / "two")
    np.testing.assert_allclose([m["loss"] for m in again], [m["loss"] for m in logs[1]], rtol=1e-5)


@pytest.mark.slow
def test_token_budget_over_two_processes(tokenizer, tmp_path) -> None:
    """Every pair is a micro-batch of its own, and gradients meet only after a process's last one."""
    pairs = chat_pairs(tmp_path, n=10)  # the last step leaves one process nothing but a copy
    plan = make_plan(pairs, threshold={"hardest": 0.3})
    pairs.save_to_disk(str(tmp_path / "pairs"))
    plan.save(tmp_path / "plan.parquet")
    one = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, tmp_path / "one", plan, num_train_epochs=2
    )
    one.train()
    torchrun(tmp_path, "--batch", "2", "--accumulation", "1", "--max-tokens", "1")
    logs = [step_logs(tmp_path / name) for name in ("one", "two")]
    for name in ("loss", "grad_norm", "route/sft"):
        np.testing.assert_allclose(*[[m[name] for m in log] for log in logs], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_the_kl_of_kto_is_that_of_all_processes(tokenizer, tmp_path) -> None:
    """Micro-batches of two pairs on two processes are one of four; what fills up the last one does not count."""
    pairs = chat_pairs(tmp_path, n=11)
    plan = make_plan(pairs, "dpo")
    pairs.save_to_disk(str(tmp_path / "pairs"))
    plan.save(tmp_path / "plan.parquet")
    one = trainer_for(
        tiny_llama(vocab_size=len(tokenizer)), tokenizer, pairs, tmp_path / "one", plan, num_train_epochs=2,
        loss_type="kto", desirable_weight=2.0, per_device_train_batch_size=4, gradient_accumulation_steps=1,
    )  # fmt: skip
    one.train()
    torchrun(tmp_path, "--batch", "2", "--accumulation", "1", "--loss", "kto")
    logs = [step_logs(tmp_path / name) for name in ("one", "two")]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(*[[m[name] for m in log] for log in logs], rtol=1e-4, atol=1e-6, err_msg=name)
