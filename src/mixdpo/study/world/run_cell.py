"""The runs of one cell and one seed, which share their pairs and the reference."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM

from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.plan.plan_settings import PLANS
from mixdpo.study.world.flat_run import FlatPairs, flat_pairs, train
from mixdpo.study.world.language import Language
from mixdpo.study.world.map_settings import METRIC, ORDERS, ArmOfMap
from mixdpo.study.world.measure import measure
from mixdpo.study.world.pairs import Candidates, Cell, NaturalCell, WorldPairs, draw_pairs
from mixdpo.study.world.quality_gate import quality_gated
from mixdpo.training.config import MixDPOConfig


class CellRuns:
    """Trains and measures arms on the pairs of one cell and seed."""

    def __init__(
        self,
        language: Language,
        base: LlamaForCausalLM,
        own: Candidates,
        cell: Cell | NaturalCell,
        count: int,
        seed: int,
    ) -> None:
        self.language, self.base, self.seed = language, base, seed
        self.cell = cell
        self.pairs = draw_pairs(language, own, cell, count, seed)

    @cached_property
    def data(self) -> FlatPairs:
        """The pairs as plans and the trainer read them."""
        return flat_pairs(self.pairs, self.base)

    @cached_property
    def is_hard(self) -> np.ndarray:
        """Of each pair whether it is of the cell's share of smallest margins; bool, shape (N,)."""
        margin = self.pairs.margin
        hard = np.zeros(len(margin), dtype=bool)
        hard[np.argsort(margin, kind="stable")[: round(self.cell.hard_share * len(margin))]] = True
        return hard

    def plan(self, arm: ArmOfMap) -> Plan:
        """Return an arm's plan; a threshold takes the cell's share of hard pairs."""
        settings = replace(arm.plan, metric=METRIC, seed=self.seed + ORDERS * arm.order)
        if settings.threshold is not None:
            settings = replace(settings, threshold={"hardest": self.cell.hard_share})
        return make_plan(self.data.loaded, settings=settings)

    def policy_of_rest(
        self, arm: ArmOfMap, learning_rate: float, beta: float, epochs: int, batch_size: int
    ) -> LlamaForCausalLM:
        """Return the policy that an arm's objective gives on the pairs that are not hard, at equal updates."""
        rest = ArmOfMap(plan=replace(PLANS["mixdpo_unsorted"], hard_route="drop", refill=True))
        args = training_config(arm.train, self.pairs, learning_rate, beta, epochs, batch_size, self.seed)
        return train(self.base, self.data, self.plan(rest), args)

    def run(self, arm: ArmOfMap, learning_rate: float, beta: float, epochs: int, batch_size: int) -> dict[str, float]:
        """Train an arm and return what its policy is worth."""
        began = time.perf_counter()
        plan = self.plan(arm)
        if arm.gate is not None:
            rest = self.policy_of_rest(arm, learning_rate, beta, epochs, batch_size)
            plan = quality_gated(plan, self.pairs, self.language, rest, self.seed)
        args = training_config(arm.train, self.pairs, learning_rate, beta, epochs, batch_size, self.seed)
        policy = train(self.base, self.data, plan, args)
        trained = time.perf_counter()
        found = measure(self.language, policy, self.seed)
        seconds = {"train_seconds": trained - began, "measure_seconds": time.perf_counter() - trained}
        return {**found, **{name: round(value, 3) for name, value in seconds.items()}}


def training_config(
    train: Mapping[str, Any],
    pairs: WorldPairs,
    learning_rate: float,
    beta: float,
    epochs: int,
    batch_size: int,
    seed: int,
) -> MixDPOConfig:
    """Return the settings of a run, those of the trainer itself.

    `label_smoothing: mean` among `train` becomes the share of flipped labels, at least 0.02.
    """
    values = dict(train)
    if values.get("label_smoothing") == "mean":
        values["label_smoothing"] = min(max(float(1 - pairs.label_right.mean()), 0.02), 0.45)
    return MixDPOConfig(
        output_dir="unused", learning_rate=learning_rate, beta=beta, num_train_epochs=epochs,
        per_device_train_batch_size=batch_size, adam_beta2=0.99, seed=seed, use_cpu=True, bf16=False, engine="padded",
        **values,
    )  # fmt: skip
