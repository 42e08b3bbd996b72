"""Training metrics: sums and counts that stay on the device until they are logged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from mixdpo.plan.plan_settings import BUCKETS
from mixdpo.training.batch import PairBatch
from mixdpo.training.step import StepResult


class MetricSums:
    """Weighted means over micro-batches, processes and steps: sums first, one division at the end."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # float32 (M, 2), sum and number of entries

    def add(self, names: Sequence[str], values: Tensor, masks: Tensor) -> None:
        """Add to M metrics the entries of their `values` (M, B) that `masks` (bool, (M, B)) select; others may be NaN.

        All of them in a handful of operations, for a small model's step takes as long as it takes to start kernels.
        """
        sums = torch.stack([torch.where(masks, values, 0).sum(1), masks.sum(1)], dim=1).detach().float()
        known = self._sums.get(tuple(names))
        self._sums[tuple(names)] = sums if known is None else known + sums

    def means(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Return the means over all processes and forget the sums; names without any entry are left out.

        This is the one place where the host waits for the device.
        """
        if not self._sums:
            return {}
        groups = sorted(self._sums)  # the same order on every process
        table = torch.cat([self._sums[names] for names in groups])
        if accelerator is not None:
            table = accelerator.reduce(table, reduction="sum")
        self._sums = {}
        names = [name for group in groups for name in group]
        return {name: total / count for name, (total, count) in zip(names, table.tolist(), strict=True) if count}


def add_step_metrics(sums: MetricSums, result: StepResult, batch: PairBatch, beta: float) -> None:
    """Add the metrics of one micro-batch, over all pairs and by bucket.

    Rewards are beta * (log pi - log pi_ref), as in TRL. Displacement is the change of the log-probability against
    the reference in nats. Both exist for the pairs that run the reference, so not for SFT-routed ones in training.
    """
    real, preference, losses = batch["weight"] > 0, batch["preference"], result.losses.detach()
    sft = (batch["sft_chosen"] + batch["sft_rejected"] > 0) | batch["hard"]
    pairs = result.pairs
    chosen_change, rejected_change = pairs.chosen_log_ratio.detach(), pairs.rejected_log_ratio.detach()
    margins = beta * (chosen_change - rejected_change)
    # Of a tie neither answer is to win.
    compared = real & ((preference & ~batch["tie"]) | batch["hard"]) & ~torch.isnan(chosen_change + rejected_change)
    buckets = {f"/{name}": real & (batch["bucket"] == code) for code, name in enumerate(BUCKETS)}

    metrics = {
        "loss/preference": (result.preference, real & preference & ~batch["tie"]),
        "loss/tie": (result.preference, real & batch["tie"]),
        "loss/sft": (result.sft, real & sft),
        "rewards/tie_margins": (margins.abs(), real & batch["tie"]),
        "route/sft": ((sft & ~preference).float(), real),
        "logps/chosen": (pairs.chosen.detach(), real & (batch["chosen_index"] >= 0)),
        "logps/rejected": (pairs.rejected.detach(), real & (batch["rejected_index"] >= 0)),
        "rewards/chosen": (beta * chosen_change, compared),
        "rewards/rejected": (beta * rejected_change, compared),
        **{f"loss{suffix}": (losses, bucket) for suffix, bucket in buckets.items()},
    }
    if result.calibration_factor is not None:
        metrics["calibration"] = result.calibration_factor.expand_as(losses), real & preference
    if result.aux_loss is not None:
        metrics["aux_loss"] = result.aux_loss.expand_as(losses), real
    by_bucket = {
        "rewards/margins": margins,
        "rewards/accuracies": (margins > 0).float(),
        "displacement/chosen": chosen_change,
        "displacement/rejected": rejected_change,
    }
    for suffix, group in {"": compared, **{suffix: compared & bucket for suffix, bucket in buckets.items()}}.items():
        metrics |= {name + suffix: (values, group) for name, values in by_bucket.items()}
    values, masks = zip(*metrics.values(), strict=True)
    sums.add(list(metrics), torch.stack(values), torch.stack(masks))
