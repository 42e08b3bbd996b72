"""Compare the weights that runs of a map get with those that `MixDPOTrainer` gets from the same pairs as text.

    python scripts/world_parity.py [SETTING ...]

Prints of every setting the largest difference of a weight, and how far training moved weights at most. Both runs start
from a base of the package and train the same pairs; a few minutes in all on one core.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan
from mixdpo.plan.plan_settings import PLANS, PlanSettings
from mixdpo.study.world.base import make_tokenizer
from mixdpo.study.world.flat_run import PAIRS_AT_ONCE, flat_pairs, train
from mixdpo.study.world.language import text_of
from mixdpo.study.world.map_settings import METRIC
from mixdpo.study.world.measure import own_answers
from mixdpo.study.world.pairs import Cell, WorldPairs, draw_pairs
from mixdpo.study.world.worlds import WORLDS, load_base

TOLERANCE = 1e-5
HALF = {"hardest": 0.5}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run that is made twice: world, plan, settings of training, and pairs of which a half is hard."""

    world: str = "words"
    plan: PlanSettings
    train: Mapping[str, Any] = field(default_factory=dict)
    pairs: int = 72  # not a multiple of a step's
    epochs: float = 2


MIXED = replace(PLANS["mixdpo_unsorted"], threshold=HALF)
SHUFFLED = PLANS["dpo"]
STAGED = replace(PLANS["staged_competence"], stages=2)
LABELS = replace(SHUFFLED, label_probability="column")

SETTINGS: dict[str, Setting] = {
    "dpo": Setting(plan=SHUFFLED),
    "sorted": Setting(plan=PLANS["dpo_sorted"]),
    "reversed": Setting(plan=PLANS["anti_curriculum"]),
    "rate weights": Setting(plan=PLANS["rate_weighted"]),
    "mixdpo": Setting(plan=replace(PLANS["mixdpo"], threshold=HALF)),
    "mixed in": Setting(plan=MIXED),
    "mixed in, letters": Setting(plan=MIXED, world="letters"),
    "mixed in, lists": Setting(plan=MIXED, world="lists"),
    "three epochs": Setting(plan=MIXED, epochs=3),
    "half an epoch": Setting(plan=MIXED, epochs=0.5),
    "max_steps": Setting(plan=MIXED, train={"max_steps": 4}),
    "re-warmed": Setting(plan=replace(MIXED, first="easy"), train={"phase_schedule": "rewarmed"}),
    "sft first": Setting(plan=replace(PLANS["sft_first"], threshold=HALF)),
    "staged epochs": Setting(plan=replace(PLANS["sft_first"], threshold=HALF, epochs="staged")),
    "dropped": Setting(plan=replace(MIXED, hard_route="drop")),
    "dropped, refilled": Setting(plan=replace(MIXED, hard_route="drop", refill=True)),
    "sft on all": Setting(plan=PLANS["sft_chosen"]),
    "both losses": Setting(plan=PLANS["uniform_mix"]),
    "paced": Setting(plan=PLANS["dpo_paced"]),
    "per-pair smoothing": Setting(plan=LABELS, train={"label_smoothing": "per_pair"}),
    "label confidence": Setting(plan=replace(LABELS, weight="label_confidence")),
    "soft routes": Setting(plan=LABELS, train={"loss_type": "label_routed"}),
    "rao_kupper": Setting(plan=replace(PLANS["ties"], threshold=HALF), train={"loss_type": "rao_kupper"}),
    "davidson": Setting(plan=replace(PLANS["ties"], threshold=HALF), train={"loss_type": "davidson"}),
    "robust": Setting(plan=SHUFFLED, train={"loss_type": "robust", "label_smoothing": 0.2}),
    "ipo": Setting(plan=MIXED, train={"loss_type": "ipo"}),
    "simpo": Setting(plan=MIXED, train={"loss_type": "simpo"}),
    "simpo on hard pairs": Setting(plan=MIXED, train={"hard_loss_type": "simpo"}),
    "dpo_shift": Setting(plan=SHUFFLED, train={"loss_type": "dpo_shift", "dpo_shift_lambda_end": 0.6}),
    "stages": Setting(plan=STAGED),
    "stages, own margins": Setting(plan=replace(STAGED, stage_metric="implicit_reward")),
    "stages, replaced reference": Setting(plan=STAGED, train={"stage_reference": "replaced"}),
    "gate": Setting(plan=replace(MIXED, stages=2, gate="likelihood")),
}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    worst = 0.0
    for name in names or SETTINGS:
        difference, moved = compare(SETTINGS[name])
        worst = max(worst, difference)
        print(f"{name:28} {difference:.1e} of {moved:.1e}", flush=True)
    sys.exit(f"the largest difference is {worst:.1e}" if worst > TOLERANCE else None)


def compare(setting: Setting) -> tuple[float, float]:
    """Return the largest difference between the two runs' weights, and between trained weights and the base's."""
    base = load_base(setting.world, 0)
    pairs = world_pairs(setting)
    by_trainer = trained_by_trainer(setting, pairs)
    data = flat_pairs(pairs, base)
    flat = train(base, data, make_plan(data.loaded, settings=replace(setting.plan, metric=METRIC)), config(setting))
    return largest(flat, by_trainer), largest(flat, base)


def world_pairs(setting: Setting) -> WorldPairs:
    language, base = WORLDS[setting.world](), load_base(setting.world, 0)
    own = own_answers(language, base, setting.pairs * 3, 4, 0)
    quality = {"words": 0.5, "letters": 0.45, "lists": 0.6}[setting.world]
    cell = Cell(hard_share=0.5, hard_quality=quality, hard_labels_right=0.75, easy_labels_right=0.95)
    return draw_pairs(language, own, cell, setting.pairs, 1)


def trained_by_trainer(setting: Setting, pairs: WorldPairs) -> LlamaForCausalLM:
    language = WORLDS[setting.world]()
    with tempfile.TemporaryDirectory() as folder:
        dataset = load_pairs(as_text(setting, pairs))
        trainer = MixDPOTrainer(
            load_base(setting.world, 0),
            args=config(setting, folder),
            train_dataset=dataset,
            plan=make_plan(dataset, settings=replace(setting.plan, metric=METRIC)),
            processing_class=make_tokenizer(language),
        )
        trainer.train()
    policy: LlamaForCausalLM = trainer.model
    return policy


def as_text(setting: Setting, pairs: WorldPairs) -> list[dict[str, Any]]:
    language = WORLDS[setting.world]()

    def said(role: str, ids: np.ndarray) -> list[dict[str, str]]:
        return [{"role": role, "content": text_of(language, ids.tolist())}]

    return [
        {
            "prompt": said("user", pairs.prompts[row]),
            "chosen": said("assistant", pairs.chosen[row]),
            "rejected": said("assistant", pairs.rejected[row]),
            f"margin/{METRIC}": float(pairs.margin[row]),
            "label_probability": float(pairs.label_right[row]),
        }
        for row in range(len(pairs.margin))
    ]


def config(setting: Setting, folder: str = "unused") -> MixDPOConfig:
    return MixDPOConfig(
        output_dir=folder, learning_rate=1e-3, beta=0.2, per_device_train_batch_size=16, adam_beta2=0.99,
        num_train_epochs=setting.epochs, use_cpu=True, bf16=False, engine="padded", save_strategy="no",
        reference_cache=False, precompute_ref_batch_size=PAIRS_AT_ONCE, disable_tqdm=True, **setting.train,
    )  # fmt: skip


def largest(one: LlamaForCausalLM, other: LlamaForCausalLM) -> float:
    """Return the largest difference of a weight."""
    both = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in both)


if __name__ == "__main__":
    main(sys.argv[1:])
