"""The training step: forward, route, weigh, reduce. Read this file first.

For every pair of a micro-batch the policy's log-probabilities are computed in one forward pass; each pair gets
the loss of its route, times its weight in the plan; the sum of the losses is divided by the number of pairs of the
whole optimizer step, which the trainer counted beforehand: sum(w l) / n. So a step's loss is a mean over the pairs of
its effective batch, however that batch is cut into micro-batches and processes, and weights scale it.

Legend: B pairs of the micro-batch, C completions of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from mixdpo.common.errors import RunError
from mixdpo.losses import LossSettings, PairLogprobs, Running, combined_loss, discount_tail, needs, wpo_weight
from mixdpo.losses.calibration import calibrated, incentives
from mixdpo.models.engine import CompletionScores, completion_scores
from mixdpo.training.batch import PairBatch


@dataclass(kw_only=True, frozen=True)
class StepSettings:
    """What the step needs to know beside the batch.

    Attributes:
        loss_names: the preference route's losses, keys of `LOSSES`.
        loss_weights: one weight per loss.
        hard_loss_names: losses of the route `sft` where it is not SFT, keys of `LOSSES`.
        loss_settings: beta and the other parameters of the losses.
        sft_weight: factor of the loss of pairs on the routes `sft` and `both`.
        ld_alpha: weight of tokens beyond the shorter answer's length in the preference losses, None for 1.
        reward_calibration: share the preference losses' gradient out anew between chosen and rejected answers.
        use_weighting: weigh each pair's preference loss by its probability under the policy (WPO).
        router_coefficient: factor of the loss that balances a mixture of experts' routers, 0 to do without.
    """

    loss_names: Sequence[str]
    loss_weights: Sequence[float]
    hard_loss_names: Sequence[str] = ()
    loss_settings: LossSettings
    sft_weight: float
    ld_alpha: float | None = None
    use_weighting: bool = False
    reward_calibration: bool = False
    router_coefficient: float = 0.0


@dataclass(frozen=True)
class StepResult:
    """Values of one micro-batch, shape (B,), float32.

    `preference` and `sft` are NaN for pairs whose route has no such loss. All but `losses` are detached. `aux_loss` is
    what balances the routers, 0-d, before its factor; None without. `calibration` are, of the E pairs with a
    preference loss, the weighted incentives of both answers and their score norms, (4, E), and `calibration_factor`
    what they were calibrated with, 0-d; None without, and in evaluation.
    """

    losses: Tensor
    preference: Tensor
    sft: Tensor
    pairs: PairLogprobs
    calibration: Tensor | None = None
    calibration_factor: Tensor | None = None
    aux_loss: Tensor | None = None


def pair_losses(
    model: nn.Module,
    batch: PairBatch,
    settings: StepSettings,
    running: Mapping[str, Running] | None = None,
    progress: float = 0.0,
    calibration_factor: Tensor | None = None,
) -> StepResult:
    """Forward and route: return the loss of every pair of `batch`.

    Args:
        model: the policy.
        batch: a micro-batch on its device.
        settings: the losses of the routes.
        running: moving statistics of earlier steps, by loss.
        progress: share of the run's steps that are done.
        calibration_factor: what `reward_calibration` multiplies the chosen answers' gradient by, 0-d.

    Raises:
        RunError: the routers are to be balanced, and the model gives no loss for it.
    """
    calibrates = settings.reward_calibration and torch.is_grad_enabled()
    scores = completion_scores(
        model,
        batch["rows"],
        score_norms=calibrates,
        alignment=settings.use_weighting,
        shared_length=settings.ld_alpha is not None,
        router_loss=settings.router_coefficient > 0,
    )
    pairs = _by_pair(scores, batch, settings.ld_alpha)
    if "mismatched" in batch:
        pairs = _with_kl(model, batch, pairs, settings)

    easy, hard = batch["preference_index"], batch["hard_index"]

    compared, calibration = pairs.select(easy), None
    if calibrates:
        assert calibration_factor is not None
        compared = calibrated(compared, calibration_factor)
    on_easy = combined_loss(
        compared, settings.loss_names, settings.loss_weights, settings.loss_settings, running, progress
    )
    if calibrates:
        assert compared.chosen_score_norm is not None
        assert compared.rejected_score_norm is not None
        weighted_2E = batch["pair_weight"][easy] * incentives(compared, on_easy)
        calibration = torch.cat([weighted_2E, compared.chosen_score_norm[None], compared.rejected_score_norm[None]])
    preference_B = torch.full_like(pairs.chosen, torch.nan).index_put((easy,), on_easy)

    # The token mean of the answer to imitate; "both" weighs the two answers' means by one half each.
    imitated_B = _weigh(batch["sft_chosen"], pairs.chosen_nll) + _weigh(batch["sft_rejected"], pairs.rejected_nll)
    has_sft_B = (batch["sft_chosen"] + batch["sft_rejected"]) > 0
    sft_B = torch.where(has_sft_B, imitated_B, torch.nan)
    if settings.hard_loss_names:
        names = settings.hard_loss_names
        on_hard = combined_loss(
            pairs.select(hard), names, [1.0] * len(names), settings.loss_settings, running, progress
        )
        sft_B = sft_B.index_put((hard,), on_hard)

    routed_B = _weigh(batch["preference"].float(), preference_B) + settings.sft_weight * _weigh(
        (has_sft_B | batch["hard"]).float(), sft_B
    )
    losses_B = batch["pair_weight"] * routed_B
    aux_loss = scores.router_loss
    if settings.router_coefficient > 0:
        if aux_loss is None:
            raise RunError("the model gives no loss that balances its routers: set router_aux_loss_coef to 0")
        losses_B = losses_B + settings.router_coefficient * aux_loss  # to each pair, so once to their mean
        aux_loss = aux_loss.detach()
    return StepResult(
        losses_B,
        preference_B.detach(),
        sft_B.detach(),
        pairs,
        calibration,
        calibration_factor if calibrates else None,
        aux_loss,
    )


def reduce_losses(losses: Tensor, weight: Tensor, pairs_in_step: Tensor | int) -> Tensor:
    """Return this micro-batch's share of the step's mean loss: sum(weight * loss) / pairs of the whole step."""
    return (losses * weight).sum() / pairs_in_step


def pair_logprobs(model: nn.Module, batch: PairBatch, ld_alpha: float | None = None) -> PairLogprobs:
    """One forward pass over the completions of `batch`; a side that a pair's route does not need is NaN."""
    return _by_pair(completion_scores(model, batch["rows"], shared_length=ld_alpha is not None), batch, ld_alpha)


def _by_pair(scores: CompletionScores, batch: PairBatch, ld_alpha: float | None) -> PairLogprobs:
    def sides(values_C: Tensor) -> tuple[Tensor, Tensor]:
        padded = torch.cat([values_C, values_C.new_full((1,), torch.nan)])  # index -1: no such completion
        return padded[batch["chosen_index"]], padded[batch["rejected_index"]]

    chosen, rejected = sides(scores.logprob)
    score_norms = sides(scores.score_norm) if scores.score_norm is not None else (None, None)
    pairs = PairLogprobs(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=batch["ref_chosen"],
        ref_rejected=batch["ref_rejected"],
        chosen_tokens=batch["chosen_tokens"],
        rejected_tokens=batch["rejected_tokens"],
        prompt_tokens=batch["prompt_tokens"],
        margin=batch["margin"],
        label_probability=batch["label_probability"],
        chosen_score_norm=score_norms[0],
        rejected_score_norm=score_norms[1],
        tie=batch["tie"],
        confidence=wpo_weight(*sides(scores.alignment)) if scores.alignment is not None else None,
    )
    if ld_alpha is None or scores.shared_logprob is None:
        return pairs
    discounted = sides(discount_tail(scores.logprob, scores.shared_logprob, ld_alpha))
    return replace(pairs, chosen=discounted[0], rejected=discounted[1], chosen_whole=chosen, rejected_whole=rejected)


def _with_kl(model: nn.Module, batch: PairBatch, pairs: PairLogprobs, settings: StepSettings) -> PairLogprobs:
    """Add the mean log-ratio of answers to other prompts, over all processes. Every process must come here.

    The mean is over the pairs of the routes whose loss reads it; others may have no reference.
    """
    with torch.no_grad():
        other = pair_logprobs(model, batch["mismatched"])
    compared = batch["compared_index"]
    reads = batch["preference"][compared] * needs(settings.loss_names, "mismatched")
    reads = (reads + batch["hard"][compared] * needs(settings.hard_loss_names, "mismatched")).float()
    ratios = (other.chosen_log_ratio + other.rejected_log_ratio)[: len(compared)] / 2
    total, count = reduce(torch.stack([_weigh(reads, ratios).sum(), reads.sum()]), reduction="sum").unbind()
    return replace(pairs, kl=(total / count.clamp(min=1)).expand_as(pairs.chosen))


def _weigh(weight: Tensor, value: Tensor) -> Tensor:
    """Return weight * value, and exactly 0 with no gradient where the weight is 0 and the value may be NaN."""
    return weight * torch.where(weight > 0, value, 0.0)
