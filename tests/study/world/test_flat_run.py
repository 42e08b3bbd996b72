"""Runs of a map give the weights of `MixDPOTrainer`; scripts/world_parity.py compares many more settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import world_parity
from mixdpo.common.errors import InputError
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan_settings import PLANS
from mixdpo.study.world.flat_run import flat_pairs, train
from mixdpo.study.world.map_settings import METRIC
from mixdpo.study.world.worlds import load_base


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["mixdpo", "rate weights", "gate"])
def test_weights_are_those_of_the_trainer(name: str) -> None:
    difference, moved = world_parity.compare(world_parity.SETTINGS[name])
    assert difference <= world_parity.TOLERANCE
    assert moved > 1e-3


def test_a_run_leaves_its_base_alone_and_repeats() -> None:
    setting = replace(world_parity.SETTINGS["dpo"], pairs=32, epochs=1)
    base = load_base("words", 0)
    data = flat_pairs(world_parity.world_pairs(setting), base)
    plan = make_plan(data.loaded, settings=replace(setting.plan, metric=METRIC))
    one, other = (train(base, data, plan, world_parity.config(setting)) for _ in range(2))
    assert world_parity.largest(one, other) == 0
    assert world_parity.largest(base, load_base("words", 0)) == 0
    assert world_parity.largest(one, base) > 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"loss_type": "beta_dpo"}, "beta_dpo"),
        ({"loss_type": "kto"}, "kto"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"weight_decay": 0.1}, "weight_decay"),
        ({"reward_calibration": True}, "reward_calibration"),
        ({"bf16": True}, "bf16"),
    ],
)
def test_what_only_the_trainer_does_is_refused(changed: dict[str, object], named: str) -> None:
    setting = replace(world_parity.SETTINGS["dpo"], pairs=32, train=changed)
    base = load_base("words", 0)
    data = flat_pairs(world_parity.world_pairs(setting), base)
    plan = make_plan(data.loaded, settings=replace(PLANS["dpo"], metric=METRIC))
    args = world_parity.config(replace(setting, train={}))
    for name, value in changed.items():
        setattr(args, name, value)
    with pytest.raises(InputError, match=named):
        train(base, data, plan, args)
