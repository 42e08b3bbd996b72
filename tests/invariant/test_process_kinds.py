"""A run on two processes of every kind gives the losses and weights that it gives on one, and its model loads.

`scripts/processes.py` tries every combination of settings; here every two settings meet once at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import Tensor
from transformers import AutoModelForCausalLM

from process_kinds import COVERING, Outcome, differences, prepare, run_cells

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("process kinds")]

# Relative difference of a step's loss, and of the weights' way. FSDP2 casts to bfloat16 where one process autocasts.
LIMITS = {"fp32": (1e-4, 2e-3), "bf16": (2e-2, 1e-1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def start(folder: Path) -> Mapping[str, Tensor]:
    """The weights before training."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return {name: weight.detach() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def alone(folder: Path) -> Mapping[str, Outcome]:
    return run_cells("one", COVERING, folder)


@pytest.mark.parametrize("kind", ["fsdp2"])
def test_a_run_is_that_of_one_process(folder: Path, alone: Mapping[str, Outcome], start, kind: str) -> None:
    for name, outcome in run_cells(kind, COVERING, folder).items():
        assert outcome.status == 0, f"{name}: {outcome.printed[-2000:]}"
        losses, weights = differences(outcome, alone[name], start)
        most = LIMITS["bf16" if COVERING[name].bf16 else "fp32"]
        assert losses < most[0], (name, losses)
        assert weights < most[1], (name, weights)
