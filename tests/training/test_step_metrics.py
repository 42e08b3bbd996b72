"""The metrics of steps against means worked out one by one."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from mixdpo.losses import PairLogprobs
from mixdpo.training.batch import PairBatch
from mixdpo.training.metrics import MetricSums, add_step_metrics
from mixdpo.training.step import StepResult

BETA = 0.1
NAN = float("nan")


def micro_batch(seed: int) -> tuple[StepResult, PairBatch]:
    """Pairs: easy, hard, routed to SFT, with a hard loss, without a bucket, a copy that fills up the batch, a tie."""
    random = torch.Generator().manual_seed(seed)
    chosen, rejected, ref_chosen, ref_rejected, losses = -50 * torch.rand((5, 7), generator=random)
    rejected[2] = ref_chosen[2] = ref_rejected[2] = ref_chosen[5] = NAN
    batch: Any = {
        "weight": torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
        "preference": torch.tensor([True, True, False, False, True, False, True]),
        "hard": torch.tensor([False, False, False, True, False, False, False]),
        "tie": torch.arange(7) == 6,
        "sft_chosen": torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
        "sft_rejected": torch.zeros(7),
        "bucket": torch.tensor([0, 2, 2, 1, -1, 0, 0]),
        "chosen_index": torch.tensor([0, 2, 4, 5, 7, -1, 9]),
        "rejected_index": torch.tensor([1, 3, -1, 6, 8, -1, 10]),
    }
    ones = torch.ones(7)
    pairs = PairLogprobs(
        chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected, chosen_tokens=ones,
        rejected_tokens=ones, prompt_tokens=ones, margin=ones,
    )  # fmt: skip
    preference = torch.where(batch["preference"], losses, NAN)
    sft = torch.where(batch["preference"], NAN, losses)
    return StepResult(losses, preference, sft, pairs), cast(PairBatch, batch)


def test_means_over_two_micro_batches() -> None:
    sums, parts = MetricSums(), [micro_batch(seed) for seed in (0, 1)]
    for result, batch in parts:
        add_step_metrics(sums, result, batch, BETA)
    found = sums.means()
    assert not sums.means()

    def mean(of: Any, rows: list[int]) -> float:
        return float(np.mean([float(of(result)[row]) for result, _ in parts for row in rows]))

    def margins(result: StepResult) -> torch.Tensor:
        return BETA * (result.pairs.chosen_log_ratio - result.pairs.rejected_log_ratio)

    both, everything = [0, 1, 3, 4], [0, 1, 2, 3, 4, 6]
    expected = {
        "loss/preference": mean(lambda r: r.losses, [0, 1, 4]),
        "loss/tie": mean(lambda r: r.losses, [6]),
        "rewards/tie_margins": mean(lambda r: margins(r).abs(), [6]),
        "loss/sft": mean(lambda r: r.losses, [2, 3]),
        "route/sft": 2 / 6,
        "logps/chosen": mean(lambda r: r.pairs.chosen, everything),
        "logps/rejected": mean(lambda r: r.pairs.rejected, [*both, 6]),
        "rewards/chosen": mean(lambda r: BETA * r.pairs.chosen_log_ratio, both),
        "rewards/rejected": mean(lambda r: BETA * r.pairs.rejected_log_ratio, both),
    }
    buckets = {"": both, "/easy": [0], "/middle": [3], "/hard": [1]}
    for suffix, rows in buckets.items():
        expected |= {
            f"rewards/margins{suffix}": mean(margins, rows),
            f"rewards/accuracies{suffix}": mean(lambda r: (margins(r) > 0).float(), rows),
            f"displacement/chosen{suffix}": mean(lambda r: r.pairs.chosen_log_ratio, rows),
            f"displacement/rejected{suffix}": mean(lambda r: r.pairs.rejected_log_ratio, rows),
        }
    for suffix, rows in {"/easy": [0, 6], "/middle": [3], "/hard": [1, 2]}.items():
        expected[f"loss{suffix}"] = mean(lambda r: r.losses, rows)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_step_takes_few_operations() -> None:
    result, batch = micro_batch(0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        add_step_metrics(MetricSums(), result, batch, BETA)
    assert sum(event.count for event in profile.key_averages() if event.key.startswith("aten::")) < 150
