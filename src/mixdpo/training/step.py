"""The training step: forward, route, weigh, reduce. Read this file first.

For every pair of a micro-batch the policy's log-probabilities are computed in one forward pass; each pair gets
the loss of its route; the sum of the losses is divided by the number of pairs of the whole optimizer step, which
the trainer counted beforehand. So a step's loss is the mean over the pairs of its effective batch, however
that batch is cut into micro-batches and processes.

Legend: B pairs of the micro-batch, C completions of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixdpo.engine import completion_logprobs
from mixdpo.losses import LossSettings, PairLogprobs, combined_loss, mean_nll
from mixdpo.training.batch import PairBatch


@dataclass(kw_only=True, frozen=True)
class StepSettings:
    """What the step needs to know beside the batch.

    Attributes:
        loss_names: the preference route's losses, keys of `LOSSES`.
        loss_weights: one weight per loss.
        loss_settings: beta and the other parameters of the losses.
        sft_weight: factor of the SFT loss of pairs on the routes `sft` and `both`.
    """

    loss_names: Sequence[str]
    loss_weights: Sequence[float]
    loss_settings: LossSettings
    sft_weight: float


@dataclass(frozen=True)
class StepResult:
    """Values of one micro-batch, shape (B,), float32.

    `preference` and `sft` are NaN for pairs whose route has no such loss. All but `losses` are detached.
    """

    losses: Tensor
    preference: Tensor
    sft: Tensor
    pairs: PairLogprobs


def pair_losses(model: nn.Module, batch: PairBatch, settings: StepSettings) -> StepResult:
    """Forward and route: return the loss of every pair of `batch`."""
    pairs = pair_logprobs(model, batch)

    preference_B = torch.full_like(pairs.chosen, torch.nan)
    index = batch["preference_index"]
    on_preference = combined_loss(
        pairs.select(index), settings.loss_names, settings.loss_weights, settings.loss_settings
    )
    preference_B = preference_B.index_put((index,), on_preference)

    # The token mean of the answer to imitate; "both" weighs the two answers' means by one half each.
    nll_chosen_B = mean_nll(pairs.chosen, pairs.chosen_tokens)
    nll_rejected_B = mean_nll(pairs.rejected, pairs.rejected_tokens)
    sft_B = _weigh(batch["sft_chosen"], nll_chosen_B) + _weigh(batch["sft_rejected"], nll_rejected_B)
    has_sft_B = (batch["sft_chosen"] + batch["sft_rejected"]) > 0

    losses_B = _weigh(batch["preference"].float(), preference_B) + settings.sft_weight * sft_B
    return StepResult(
        losses=losses_B,
        preference=preference_B.detach(),
        sft=torch.where(has_sft_B, sft_B, torch.nan).detach(),
        pairs=pairs,
    )


def reduce_losses(losses: Tensor, weight: Tensor, pairs_in_step: Tensor | int) -> Tensor:
    """Return this micro-batch's share of the step's mean loss: sum(weight * loss) / pairs of the whole step."""
    return (losses * weight).sum() / pairs_in_step


def pair_logprobs(model: nn.Module, batch: PairBatch) -> PairLogprobs:
    """One forward pass over the completions of `batch`; a side that a pair's route does not need is NaN."""
    logprobs_C = completion_logprobs(model, batch["rows"])
    padded = torch.cat([logprobs_C, logprobs_C.new_full((1,), torch.nan)])  # index -1: no such completion
    return PairLogprobs(
        chosen=padded[batch["chosen_index"]],
        rejected=padded[batch["rejected_index"]],
        ref_chosen=batch["ref_chosen"],
        ref_rejected=batch["ref_rejected"],
        chosen_tokens=batch["chosen_tokens"],
        rejected_tokens=batch["rejected_tokens"],
    )


def _weigh(weight: Tensor, value: Tensor) -> Tensor:
    """Return weight * value, and exactly 0 with no gradient where the weight is 0 and the value may be NaN."""
    return weight * torch.where(weight > 0, value, 0.0)
