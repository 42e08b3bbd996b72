"""Whoever watches runs in a tracker: what TensorBoard, Weights & Biases and trackio are told, offline."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixdpo import MixDPOConfig, MixDPOTrainer, PlanSettings
from mixdpo.cli.main import main
from mixdpo.training.run_folder import logged_metrics
from synthetic import chat_rows
from tiny import saved, tiny_llama
from trainers import config

Scalars = dict[str, list[tuple[int, float]]]
"""What a tracker was told, by name: steps and values."""


@pytest.fixture(scope="module")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return chat_rows(24)


def tracked_tensorboard(folder: Path) -> tuple[Scalars, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((folder / "run" / "runs").iterdir())))
    events.Reload()
    scalars = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return scalars, str(events.Tensors("args/text_summary"))


def records_of(file: Path) -> Iterator[bytes]:
    """Read the records of W&B's file: LevelDB's log format behind a header of its own of seven bytes."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # no room in the block for another record's head
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if place + 7 + length > len(data):  # not yet written
            return
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def tracked_wandb(folder: Path) -> tuple[Scalars, str]:
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.finish()  # another process writes the file, and may be late with its end
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    records, patience = [], time.monotonic() + 20
    while not any(record.HasField("exit") for record in records) and time.monotonic() < patience:
        time.sleep(0.05)
        records = [wandb_internal_pb2.Record.FromString(data) for data in records_of(file)]
    scalars: Scalars = {}
    told = ""
    for record in records:
        line = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name, value in line.items():
            scalars.setdefault(name, []).append((line.get("train/global_step", 0), value))
        told += str(record.config)
    return scalars, told


def tracked_trackio(folder: Path) -> tuple[Scalars, str]:
    (file,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        lines = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by id")]
        told = str(database.execute("select config from configs").fetchall())
    scalars: Scalars = {}
    for line in lines:
        for name, value in line.items():
            scalars.setdefault(name, []).append((line["train/global_step"], value))
    return scalars, told


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> Path:
    """A folder that trackers write to, without asking anybody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path


def test_settings_are_told_without_secrets() -> None:
    args = MixDPOConfig(
        use_cpu=True, hub_token="a-secret", model_init_kwargs={"dtype": "float32", "token": "a-secret"}
    )
    args.tell_plan({"hard_route": "sft"})
    assert "a-secret" not in json.dumps(args.to_dict())
    assert args.to_dict()["model_init_kwargs"] == {"dtype": "float32"}
    assert args.to_dict()["plan"] == {"hard_route": "sft"}
    assert "plan" not in args.to_record(), "run.json has it by itself"


@pytest.mark.parametrize(
    ("tracker", "read"),
    [("tensorboard", tracked_tensorboard), ("wandb", tracked_wandb), ("trackio", tracked_trackio)],
)
def test_a_tracker_is_told_everything_but_secrets(
    tracker: str, read: Callable[..., Any], base: str, rows: list[dict[str, Any]], offline: Path
) -> None:
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed (pip install {tracker})")
    args = config(
        offline / "run", max_steps=6, logging_steps=3, eval_strategy="steps", eval_steps=3, report_to=tracker,
        run_name="first", hub_token="a-secret", model_init_kwargs={"dtype": "float32", "token": "a-secret"},
    )  # fmt: skip
    plan = PlanSettings(threshold={"hardest": 0.3})
    MixDPOTrainer(base, args=args, train_dataset=rows, eval_dataset=rows[:4], plan=plan).train()
    scalars, told = read(offline)
    lines = logged_metrics(offline / "run")
    for name, tracked in (
        ("loss/preference", "train/loss/preference"), ("loss/sft", "train/loss/sft"), ("eval_loss", "eval/loss"),
        ("eval_rewards/accuracies/easy", "eval/rewards/accuracies/easy"),
        ("tokens_per_second", "train/tokens_per_second"),
    ):  # fmt: skip
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert expected
        assert scalars[tracked] == expected, tracked
    assert "per_device_train_batch_size" in told
    assert "hard_route" in told, "the plan, by which runs differ"
    assert "a-secret" not in told


def test_a_tracker_that_fails_is_one_line(base: str, rows, tmp_path: Path, monkeypatch, capsys) -> None:
    class NotLoggedIn(Exception):
        __module__ = "wandb.errors"

    def fail(*args: Any) -> None:
        raise NotLoggedIn("No API key configured. Use `wandb login` to log in")

    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("mixdpo.training.trainer.MixDPOTrainer.train", lambda self, **kwargs: fail())
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace())
    words = ["train", str(data), "--model", base, "--train.report_to", "wandb", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    assert "mixdpo: train.report_to: wandb: No API key configured" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.json*"))
