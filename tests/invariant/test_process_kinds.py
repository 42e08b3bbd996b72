"""A run on processes of every kind gives the losses and weights that it gives on one, and its model loads.

`scripts/processes.py` tries every combination of settings; here every two settings meet once at least.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mixdpo.common.table_files import read_json_rows
from mixdpo.training.merge import merge
from mixdpo.training.run_folder import logged_metrics
from process_kinds import (
    ANSWERS,
    COVERING,
    OTHERS,
    Command,
    Outcome,
    differences,
    limits,
    load_trained,
    prepare,
    run_kinds,
    starting_weights,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("process kinds")]

SAVING = {name: OTHERS[name] for name in ("saved", "resumed", "lora-saved", "lora-resumed")}
SCORED = Command(
    (
        *("score", "{folder}/pairs.parquet", "--model.name_or_path", "{folder}/model"),
        *("--metric", "nll_gap", "--metric", "validation_loss"),
        *("--score.validation_loss.step_size", "4", "--score.validation_loss.repetitions", "1"),
    ),
    ".parquet",
)
MOVED = {"live-moved": OTHERS["live-moved"]}
STAGES = {"stages-saved": OTHERS["stages-saved"]}
CONTINUED = {name: SAVING[name] for name in ("saved", "resumed")}
ON_TWO = {
    "fsdp2": {**COVERING, **MOVED, **STAGES, "answers": ANSWERS},
    "fsdp2-sharded": SAVING,
    "ddp": {**MOVED, **STAGES, "stages-resumed": OTHERS["stages-resumed"], "score": SCORED, "answers": ANSWERS},
}
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
ON_DEEPSPEED = {
    "zero2": {**COVERING, **MOVED},
    "zero3": {**COVERING, **MOVED, **STAGES, **CONTINUED, "answers": ANSWERS},
}
ON_TWO_NODES = {"hsdp": {"full-fp32-packed-cached": COVERING["full-fp32-packed-cached"]}}
CELLS = {**ON_TWO, **ON_TWO_NODES, **ON_DEEPSPEED}
ON_ONE = {**COVERING, **MOVED, **STAGES, "saved": SAVING["saved"], "lora-saved": SAVING["lora-saved"], "score": SCORED,
          "answers": ANSWERS}  # fmt: skip
COMPARED = [
    pytest.param(kind, name, marks=NEEDS_DEEPSPEED if kind in ON_DEEPSPEED else ())
    for kind, cells in CELLS.items()
    for name in cells
    if name not in ("score", "answers")
]

Outcomes = Mapping[str, Mapping[str, Outcome]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Outcomes:
    """All runs: one process makes those it is compared with, two the rest, one after the other."""
    found = {**run_kinds({"one": ON_ONE}, folder), **run_kinds(ON_TWO, folder), **run_kinds(ON_TWO_NODES, folder)}
    if find_spec("deepspeed") is not None:
        found |= run_kinds(ON_DEEPSPEED, folder)
    return found


@pytest.mark.parametrize(("kind", "name"), COMPARED)
def test_a_run_is_that_of_one_process(folder: Path, outcomes: Outcomes, kind: str, name: str) -> None:
    outcome, alone = outcomes[kind][name], outcomes["one"][name.replace("resumed", "saved")]
    assert outcome.status == alone.status == 0, outcome.printed[-2000:] + alone.printed[-2000:]
    cell = CELLS[kind][name]
    losses, weights = differences(outcome, alone, starting_weights(folder, cell))
    most_losses, most_weights = limits(kind, cell)
    assert losses < most_losses
    assert weights < most_weights


def test_tied_weights_are_saved_once(outcomes: Outcomes) -> None:
    for kind in {"one", "fsdp2", "zero2", "zero3"} & set(outcomes):
        with safe_open(outcomes[kind]["tied-fp32-packed-cached"].run / "model" / "model.safetensors", "pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118  # no mapping


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("kind", ON_DEEPSPEED)
def test_rows_are_packed_under_zero(outcomes: Outcomes, kind: str) -> None:
    assert "padded rows" not in outcomes[kind]["full-fp32-packed-cached"].printed


@NEEDS_DEEPSPEED
def test_a_run_of_zero3_says_how_large_its_model_is(outcomes: Outcomes) -> None:
    described = [json.loads((outcomes[kind]["saved"].run / "run.json").read_text()) for kind in ("one", "zero3")]
    assert described[0]["model"] == described[1]["model"]


@NEEDS_DEEPSPEED
def test_a_checkpoint_of_zero3_becomes_a_model(outcomes: Outcomes, tmp_path: Path) -> None:
    run = outcomes["zero3"]["saved"].run
    merge(run / "checkpoint-3", tmp_path / "merged")
    merged, trained = (load_trained(folder).state_dict() for folder in (tmp_path / "merged", run / "model"))
    torch.testing.assert_close(merged, trained, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["saved", "lora-saved"])
def test_a_checkpoint_in_shards_becomes_a_model(outcomes: Outcomes, tmp_path: Path, name: str) -> None:
    run = outcomes["fsdp2-sharded"][name].run
    merge(run / "checkpoint-3", tmp_path / "merged")
    trained = load_trained(run / "model")
    trained = trained.merge_and_unload() if name.startswith("lora") else trained
    merged: dict[str, Tensor] = load_trained(tmp_path / "merged").state_dict()
    torch.testing.assert_close(merged, trained.state_dict(), rtol=0, atol=1e-6)


def test_scores_are_those_of_one_process(outcomes: Outcomes) -> None:
    tables = [pq.read_table(outcomes[kind]["score"].run.with_suffix(".parquet")) for kind in ("one", "ddp")]
    for column in ("margin/nll_gap", "margin/validation_loss"):
        alone, shared = (table[column].to_numpy() for table in tables)
        np.testing.assert_allclose(shared, alone, atol=1e-3)


def test_answers_are_those_of_one_process(outcomes: Outcomes) -> None:
    outcome, alone = outcomes["ddp"]["answers"], outcomes["one"]["answers"]
    assert outcome.status == alone.status == 0, outcome.printed[-2000:] + alone.printed[-2000:]
    found, expected = (read_json_rows(one.run / "answers" / "start.jsonl") for one in (outcome, alone))
    assert [row["output"] for row in found] == [row["output"] for row in expected]
    lines = [[m for m in logged_metrics(one.run) if "eval_answers/tokens" in m] for one in (outcome, alone)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for name in ("win_rate", "tokens", "entropy"):
        ours, theirs = ([line.get(f"eval_answers/{name}", np.nan) for line in of_run] for of_run in lines)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=name)
