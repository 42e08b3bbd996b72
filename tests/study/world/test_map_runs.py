"""Maps end to end: a killed one goes on to the same table, on any number of processes; gates; arms that are one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maps import map_file
from mixdpo.cli.main import main
from mixdpo.common.errors import RunError
from mixdpo.plan.plan_settings import PLANS, ROUTES
from mixdpo.study.world.map_execution import OWN_ANSWERS, read_results, run_all
from mixdpo.study.world.map_file import load_map
from mixdpo.study.world.map_runs import final_runs
from mixdpo.study.world.map_settings import ArmOfMap
from mixdpo.study.world.map_table import load_table
from mixdpo.study.world.measure import own_answers
from mixdpo.study.world.pairs import Cell
from mixdpo.study.world.quality_gate import ANSWERS, quality_gated
from mixdpo.study.world.run_cell import CellRuns
from mixdpo.study.world.worlds import WORLDS, load_base

ONE_CELL = {"worlds/words/cells": [{"hard_quality": 0.85}]}


def tables_without_times(folder: Path) -> dict[str, Any]:
    table = load_table(folder / "map.json")
    return {**table, "runs": {**table["runs"], "hours": None}}


@pytest.mark.slow
def test_a_killed_map_goes_on_to_the_same_table(tmp_path: Path) -> None:
    file, killed, whole = map_file(tmp_path, {**ONE_CELL, "seeds": [3, 6]}), tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "mixdpo", "map", str(file), "-o", str(killed), "--processes", "2"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not read_results(killed):
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    before = read_results(killed)
    assert 0 < len(before) < 8
    with (killed / "results-torn.jsonl").open("w") as torn:
        torn.write('{"key": "0123", "rewa')

    for folder in (killed, whole):
        assert main(["map", str(file), "-o", str(folder), "--processes", "1"]) == 0
    assert tables_without_times(killed) == tables_without_times(whole)
    assert json.loads((whole / "map.json").read_text())["runs"]["final"] == 8
    after = read_results(killed)
    assert {key: after[key] for key in before} == before  # none was run again
    files = {path: path.stat().st_size for path in whole.glob("results-*")}
    assert main(["map", str(file), "-o", str(whole), "--processes", "1"]) == 0
    assert {path: path.stat().st_size for path in whole.glob("results-*")} == files


def test_a_process_whose_map_was_killed_ends_before_its_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_map(map_file(tmp_path, ONE_CELL))
    gone = SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr("mixdpo.study.world.map_execution.multiprocessing.parent_process", lambda: gone)
    with pytest.raises(SystemExit):
        run_all(settings, list(final_runs(settings, {})), tmp_path, 1)
    assert read_results(tmp_path) == {}


def test_pairs_that_a_world_does_not_have_are_named(tmp_path: Path) -> None:
    settings = load_map(map_file(tmp_path, {"worlds/words/cells": [{"hard_quality": 1.5}]}))
    with pytest.raises(RunError, match=r"words, P 0\.5, quality 1\.5.*hardly any"):
        run_all(settings, list(final_runs(settings, {})), tmp_path, 1)


@pytest.fixture(scope="module")
def of_cell() -> CellRuns:
    language, base = WORLDS["words"](), load_base("words", 0)
    own = own_answers(language, base, 256, OWN_ANSWERS, 0)
    return CellRuns(language, base, own, Cell(hard_quality=0.6), 128, 3)


def test_equal_plans_under_two_names_are_one_run_and_another_order_is_another(of_cell: CellRuns) -> None:
    plan = PLANS["dpo"]
    arms = [ArmOfMap(plan=plan), ArmOfMap(plan=plan, note="again"), ArmOfMap(plan=plan, order=1)]
    one, again, other = (of_cell.run(arm, 1e-3, 0.2, 1, 32)["reward"] for arm in arms)
    assert one == again != other
    assert other == pytest.approx(one, abs=0.05)


def test_the_gate_keeps_answers_that_beat_the_policy_of_the_rest(
    of_cell: CellRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, pairs = ArmOfMap(plan=PLANS["mixdpo_unsorted"], gate="quality"), of_cell.pairs
    ungated = of_cell.plan(arm)
    answers = np.repeat(pairs.rejected[ungated.is_hard], ANSWERS, axis=0)  # as if the policy gave the rejected ones
    monkeypatch.setattr(
        "mixdpo.study.world.quality_gate.sample", lambda *arguments: (torch.from_numpy(answers), torch.zeros(0))
    )
    plan = quality_gated(ungated, pairs, of_cell.language, of_cell.base, 3)
    assert np.array_equal(plan.is_hard, ungated.is_hard & (pairs.reward_chosen > pairs.reward_rejected))
    assert np.array_equal(plan.is_hard | (plan.route == ROUTES.index("drop")), ungated.is_hard)
    assert 0 < plan.is_hard.sum() < ungated.is_hard.sum()
    assert len(plan.epoch_rows(0, 1)) == len(plan)  # at equal updates


def test_a_gated_arm_is_run_behind_the_policy_of_its_own_objective(of_cell: CellRuns) -> None:
    found = of_cell.run(ArmOfMap(plan=PLANS["mixdpo_unsorted"], gate="quality"), 1e-3, 0.2, 1, 32)
    plain = of_cell.run(ArmOfMap(plan=PLANS["mixdpo_unsorted"]), 1e-3, 0.2, 1, 32)
    assert found["reward"] != plain["reward"]
