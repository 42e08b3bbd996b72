"""Whether a run's losses, gradients and weights are finite, and what is said when they are not.

A GPU works behind the host, which must not wait for it in every step. So what a step gave is written down on the
device and read where the host waits anyway: with every line of the log, before an evaluation, and before anything is
saved. The first and the last step are read before the optimizer changes the weights, and on a CPU all are.

Legend: B pairs of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn

from mixdpo.common.errors import RunError
from mixdpo.data.pair_names import pair_names
from mixdpo.training.batch import PairBatch
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.step import StepResult

_SHOWN_WEIGHTS = 3


def steps_between_looks(device: torch.device) -> int:
    """Return after how many steps their records are read: each on a CPU, which makes nobody wait."""
    return 1 if device.type == "cpu" else 100


@dataclass(frozen=True)
class BrokenStep:
    """A step with a loss or a gradient that is not finite; pairs are rows of the loaded data, over all processes.

    Attributes:
        step: its number, from 1.
        pairs: all pairs of the step.
        loss: those whose loss is not finite.
        policy: those whose log-probabilities under the policy are not.
        reference: those whose log-probabilities under the reference are not, though a loss reads them.
    """

    step: int
    pairs: list[int]
    loss: list[int]
    policy: list[int]
    reference: list[int]


class StepRecords:
    """What was finite in the steps since the records were last read; on the device until then."""

    def __init__(self) -> None:
        self._pairs: list[tuple[int, list[Tensor]]] = []
        self._gradients: list[tuple[int, Tensor]] = []

    def add_pairs(self, step: int, batch: PairBatch, result: StepResult) -> None:
        """Keep a micro-batch's tensors (B,) that tell whether loss, policy and reference are finite."""
        # They are looked at later, for every operation on them is one more kernel of the step.
        kept = [batch["row"], batch["weight"], batch["chosen_index"], batch["rejected_index"]]
        kept += [batch["ref_chosen"], batch["ref_rejected"], result.losses, result.pairs.chosen, result.pairs.rejected]
        self._pairs.append((step, [values.detach() for values in kept]))

    def add_gradient(self, step: int, norm: Tensor | float | None) -> None:
        """Write down the norm of a step's gradients over all weights, None where it is not known."""
        if norm is not None:
            norm = torch.as_tensor(norm)
            # Of weights in shards the own part is enough: processes are put together when the records are read.
            norm = norm.to_local() if hasattr(norm, "to_local") else norm
            self._gradients.append((step, torch.isfinite(norm.detach())))

    def first_broken(self, accelerator: Accelerator, reads_reference: np.ndarray) -> BrokenStep | None:
        """Return the first step that was not finite on any process, and forget the records. All must come here.

        Args:
            accelerator: of the run.
            reads_reference: bool, by row of the loaded data: whether the pair's loss reads the reference.
        """
        pairs, gradients = self._pairs, self._gradients
        self._pairs, self._gradients = [], []
        if not pairs:
            return None
        table = _finite_table(pairs)
        bad = ((table[:, 2] == 1) & (table[:, 3] == 0)).any()
        for _, finite in gradients:
            bad = bad | ~finite.to(bad.device)
        if not accelerator.reduce(bad.float(), reduction="sum").item():
            return None
        rows = [row for row in gather_object(table.tolist()) if row[2]]
        steps = gather_object([step for step, finite in gradients if not finite])
        step = min([*steps, *(row[0] for row in rows if not row[3])])
        rows = sorted(row for row in rows if row[0] == step)
        return BrokenStep(
            step=step,
            pairs=[row[1] for row in rows],
            loss=[row[1] for row in rows if not row[3]],
            policy=[row[1] for row in rows if not row[4]],
            reference=[row[1] for row in rows if not row[5] and reads_reference[row[1]]],
        )


def _finite_table(pairs: list[tuple[int, list[Tensor]]]) -> Tensor:
    """Return int64 (pairs, 6): step, row, whether it counts, and whether loss, policy and reference are finite."""
    columns = [torch.cat(parts) for parts in zip(*(kept for _, kept in pairs), strict=True)]
    row, weight, chosen_index, rejected_index, ref_chosen, ref_rejected, losses, chosen, rejected = columns
    steps = [torch.full_like(kept[0], step) for step, kept in pairs]
    policy = torch.where(chosen_index >= 0, chosen, 0.0) + torch.where(rejected_index >= 0, rejected, 0.0)
    finite = [torch.isfinite(values) for values in (losses, policy, ref_chosen + ref_rejected)]
    return torch.stack([torch.cat(steps), row, *(column.long() for column in (weight > 0, *finite))], dim=1)


def weights_not_finite(model: nn.Module) -> list[str]:
    """Return the names of the parameters that hold NaN or infinity; of weights in shards, in those of this process."""
    found = []
    for name, parameter in model.named_parameters():
        weights: Any = getattr(parameter, "ds_tensor", parameter).detach()  # DeepSpeed's shard
        weights = weights.to_local() if hasattr(weights, "to_local") else weights
        counted = weights.is_floating_point() and weights.numel()  # not those in 4 bits, nor an empty shard
        if counted and not torch.isfinite(torch.linalg.vector_norm(weights, torch.inf)):
            found.append(name.removeprefix("module."))
    return found


def not_finite_anywhere(model: nn.Module, accelerator: Accelerator) -> list[str]:
    """Return what `weights_not_finite` finds on any process. All must come here."""
    found = weights_not_finite(model)
    number = torch.tensor(float(len(found)), device=accelerator.device)
    return sorted(set(gather_object(found))) if accelerator.reduce(number, reduction="sum").item() else []


def broken_step_error(
    broken: BrokenStep, dataset: Dataset, remedy: str, *, is_first: bool, weights: Sequence[str] = ()
) -> RunError:
    """Return the error that stops a run: the step, its pairs, the likely cause.

    Args:
        broken: what was found.
        dataset: the loaded pairs.
        remedy: what to change where the weights moved too far, from `smaller_updates`.
        is_first: whether no step was trained before it since the run was started or continued.
        weights: parameters that were not finite before the step changed them, where they were looked at.
    """
    named = broken.loss or broken.pairs
    if broken.loss:
        what = f"the loss of {len(named):,} of {len(broken.pairs):,} pairs is not finite"
    else:
        what = f"the losses of its {len(named):,} pairs are finite and their gradients are not"
    cause = _likely_cause(broken, remedy, is_first, weights)
    return RunError(f"step {broken.step}: {what}: {pair_names(dataset, named)}. Likely cause: {cause}")


def broken_reference_error(
    rows: Sequence[int], total: int, name: str, dataset: Dataset, weights: Sequence[str]
) -> RunError:
    """Return the error for a reference without a finite log-probability for some of the pairs that need one.

    Args:
        rows: those pairs, as rows of the loaded data.
        total: number of pairs that need one.
        name: which pairs they are: `train` or `eval`.
        dataset: the loaded pairs.
        weights: the reference's parameters that are not finite.
    """
    if weights:
        cause = f"the model: {_named_weights(weights)}"
    elif len(rows) < total:
        cause = f"{'these pairs' if len(rows) > 1 else 'that pair'}, for those of the others are finite"
    else:
        cause = "the model: numbers between its layers overflow; load it in float32 or bfloat16"
    return RunError(
        f"before step 1: the reference ({name}) gives no finite log-probability for {len(rows):,} of {total:,} pairs: "
        f"{pair_names(dataset, rows)}. Likely cause: {cause}"
    )


def broken_weights_error(step: int, weights: Sequence[str], remedy: str) -> RunError:
    """Return the error for weights that a step made NaN or infinite, though its loss and gradients were finite."""
    return RunError(
        f"after step {step}: {_named_weights(weights)}, though its loss and gradients were; nothing is saved. Likely "
        f"cause: the update overflowed; {remedy}"
    )


def check_loss_scale(scaler: Any, steps: int) -> None:
    """Raise `RunError` if float16 gradients are infinite at any scale, so that every step is skipped.

    Args:
        scaler: PyTorch's, which halves the scale of the loss (65,536 at first) at each step that it skips; or None.
        steps: steps done.
    """
    if scaler is not None and scaler.get_scale() < 1:
        raise RunError(
            f"after step {steps}: gradients are not finite at a loss scale of {scaler.get_scale():.2g}, so their "
            "steps are skipped. Likely cause: float16 ends at 65,504; set bf16 instead of fp16"
        )


def smaller_updates(model: nn.Module, args: MixDPOConfig) -> str:
    """Return what to change where updates are too large for the weights of `model`."""
    half = args.fp16 or any(weights.dtype == torch.float16 for weights in model.parameters())
    advice = f"lower learning_rate (it is {args.learning_rate:g})"
    return f"{advice}, and take bfloat16 or float32 instead of float16, which ends at 65,504" if half else advice


def _likely_cause(broken: BrokenStep, remedy: str, is_first: bool, weights: Sequence[str]) -> str:
    if weights:
        return f"the {'model' if is_first else 'steps before'}: {_named_weights(weights)}" + (
            "" if is_first else f"; {remedy}"
        )
    if broken.reference:
        return f"the reference, which gives no finite log-probability for {len(broken.reference):,} of them"
    if broken.loss and not broken.policy:
        return "the loss, for the policy's log-probabilities are finite; take a smaller beta or another loss_type"
    if broken.loss and len(broken.loss) < len(broken.pairs):
        some = "these pairs" if len(broken.loss) > 1 else "that pair"
        return f"{some}, for the losses of the step's others are finite; leave them out or look at their texts"
    if not is_first:
        return f"the steps before moved the weights too far; {remedy}"
    return f"numbers between the model's layers overflow; {remedy}"


def _named_weights(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_WEIGHTS
    shown = ", ".join(names[:_SHOWN_WEIGHTS]) + (f" and {more:,} more" if more > 0 else "")
    return f"the weights {shown} are not finite"
