"""Training metrics: sums and counts that stay on the device until they are logged, and a table of what was."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from rich.table import Table
from torch import Tensor

from mixdpo.common.tables import results_table
from mixdpo.plan.plan_settings import BUCKETS
from mixdpo.training.batch import PairBatch
from mixdpo.training.step import StepResult


class MetricSums:
    """Weighted means over micro-batches, processes and steps: sums first, one division at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Add the entries of `values` (B,) that `mask` (bool, (B,)) selects; the others may be NaN."""
        sums = torch.stack([torch.where(mask, values, 0).sum(), mask.sum()]).detach().float()
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def means(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Return the means over all processes and forget the sums; names without any entry are left out.

        This is the one place where the host waits for the device.
        """
        if not self._sums:
            return {}
        names = sorted(self._sums)  # the same order on every process
        table = torch.stack([self._sums[name] for name in names])
        if accelerator is not None:
            table = accelerator.reduce(table, reduction="sum")
        self._sums = {}
        return {name: total / count for name, (total, count) in zip(names, table.tolist(), strict=True) if count}


def add_step_metrics(sums: MetricSums, result: StepResult, batch: PairBatch, beta: float) -> None:
    """Add the metrics of one micro-batch, over all pairs and by bucket.

    Rewards are beta * (log pi - log pi_ref), as in TRL. Displacement is the change of the log-probability against
    the reference in nats. Both exist for the pairs that run the reference, so not for SFT-routed ones in training.
    """
    real = batch["weight"] > 0
    sft = (batch["sft_chosen"] + batch["sft_rejected"] > 0) | batch["hard"]
    pairs = result.pairs
    chosen_change, rejected_change = pairs.chosen_log_ratio.detach(), pairs.rejected_log_ratio.detach()
    compared = real & (batch["preference"] | batch["hard"]) & ~torch.isnan(chosen_change + rejected_change)
    margins = beta * (chosen_change - rejected_change)
    groups = {"": real, **{f"/{name}": real & (batch["bucket"] == code) for code, name in enumerate(BUCKETS)}}

    if result.aux_loss is not None:
        sums.add("aux_loss", result.aux_loss.expand_as(result.losses), real)
    sums.add("loss/preference", result.preference, real & batch["preference"])
    sums.add("loss/sft", result.sft, real & sft)
    sums.add("route/sft", (sft & ~batch["preference"]).float(), real)
    sums.add("logps/chosen", pairs.chosen.detach(), real & (batch["chosen_index"] >= 0))
    sums.add("logps/rejected", pairs.rejected.detach(), real & (batch["rejected_index"] >= 0))
    sums.add("rewards/chosen", beta * chosen_change, compared)
    sums.add("rewards/rejected", beta * rejected_change, compared)
    for suffix, group in groups.items():
        if suffix:
            sums.add(f"loss{suffix}", result.losses.detach(), group)
        sums.add(f"rewards/margins{suffix}", margins, compared & group)
        sums.add(f"rewards/accuracies{suffix}", (margins > 0).float(), compared & group)
        sums.add(f"displacement/chosen{suffix}", chosen_change, compared & group)
        sums.add(f"displacement/rejected{suffix}", rejected_change, compared & group)


def final_table(first: dict[str, float], last: dict[str, float]) -> Table:
    """Return the short table that closes a run: first and last logged value of the main metrics."""
    table = results_table("training", "metric", "first", "last")
    names = (
        "loss",
        "loss/preference",
        "loss/sft",
        "rewards/accuracies",
        "rewards/margins",
        "displacement/chosen",
        "displacement/rejected",
    )
    for name in names:
        if name in first or name in last:
            table.add_row(name, *(f"{m[name]:.4g}" if name in m else "-" for m in (first, last)))
    return table
