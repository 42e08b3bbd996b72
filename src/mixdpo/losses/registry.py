"""All losses by name, with what each needs to be computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

from torch import Tensor

from mixdpo.losses import (
    batchwise,
    displacement,
    margins,
    noisy_labels,
    paper_forms,
    pointwise,
    preference,
    reference_free,
    scores,
    ties,
)
from mixdpo.losses import sft as likelihood
from mixdpo.losses.loss_settings import LossSettings
from mixdpo.losses.types import PairLogprobs, Running

_SETTINGS: Final = frozenset(field.name for field in fields(LossSettings))
_OF_THE_RUN: Final = frozenset({"running", "progress"})


@dataclass(frozen=True)
class Loss:
    """A loss and what the training step must provide for it.

    Attributes:
        function: `(pairs, *, ...) -> Tensor` of shape (B,); what it takes by keyword is given from the fields of
            `LossSettings`, `running` where there is a `statistic`, and `progress`, the share of the run's steps that
            are done; a keyword of another name keeps its default.
        reference: whether it reads the reference's log-probabilities.
        margin: whether it reads the plan's margins.
        label: whether it reads the plan's probability that a label is right, without smoothing by it.
        mismatched: whether it reads answers to other prompts.
        contrasts: whether it raises chosen answers and lowers rejected ones.
        ties: whether it has a loss for pairs whose answers count as equally good, which `pairs.tie` marks.
        two_sided: whether it has a loss for a flipped label: that of the two answers exchanged. So has a function of a
            difference that changes its sign then, and a sum of one loss of good and another of bad answers.
        statistic: `(pairs, **parameters) -> Tensor` (B,) whose moving mean and deviation it reads.
        whole_batch: whether a pair's loss depends on the other pairs of its micro-batch.

    Raises:
        TypeError: the function has a parameter that could not be given, or it reads margins, which exchanged answers
            do not have, and is two-sided.
    """

    function: Callable[..., Tensor]
    reference: bool = True
    margin: bool = False
    label: bool = False
    mismatched: bool = False
    contrasts: bool = True
    ties: bool = False
    two_sided: bool = False
    statistic: Callable[..., Tensor] | None = None
    whole_batch: bool = False

    def __post_init__(self) -> None:
        _, *parameters = inspect.signature(self.function).parameters.values()
        for parameter in parameters:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise TypeError(f"{parameter.name} would never be given: write the parameters of a loss after a *")
            if parameter.name not in _SETTINGS | _OF_THE_RUN and parameter.default is parameter.empty:
                raise TypeError(f"no setting of losses is named {parameter.name}, and it has no default")
        if self.two_sided and self.margin:
            raise TypeError("a loss that reads margins has no other side: exchanged answers have no margin")


LOSSES: Final[dict[str, Loss]] = {
    "sigmoid": Loss(preference.dpo),
    "robust": Loss(preference.robust_dpo),
    "hinge": Loss(preference.hinge, two_sided=True),
    "ipo": Loss(preference.ipo, two_sided=True),
    "ipo_sum": Loss(preference.ipo_sum, two_sided=True),
    "sigmoid_norm": Loss(preference.dpo_norm, two_sided=True),
    "r_dpo": Loss(preference.r_dpo, two_sided=True),
    "dpop": Loss(preference.dpop),
    "dpo_shift": Loss(displacement.dpo_shift),
    "hypo": Loss(displacement.hypo),
    "chosen_floor": Loss(displacement.chosen_floor, contrasts=False),
    "cal_dpo": Loss(preference.cal_dpo, two_sided=True),
    "rpo": Loss(preference.rpo),
    "exo_pair": Loss(preference.exo_pair),
    "discopop": Loss(preference.discopop, two_sided=True),
    "nca_pair": Loss(pointwise.nca_pair, two_sided=True),
    "bco_pair": Loss(pointwise.bco_pair, two_sided=True),
    "bco": Loss(pointwise.bco, two_sided=True, statistic=pointwise.mean_reward),
    "sppo_hard": Loss(pointwise.sppo_hard, two_sided=True),
    "apo_zero": Loss(pointwise.apo_zero, two_sided=True),
    "apo_down": Loss(pointwise.apo_down, contrasts=False),
    "kto": Loss(pointwise.kto, mismatched=True, two_sided=True, whole_batch=True),
    "odpo": Loss(margins.odpo, margin=True),
    "margin_weighted": Loss(margins.margin_weighted, margin=True),
    "soft_routed": Loss(margins.soft_routed, margin=True),
    "label_routed": Loss(margins.label_routed, label=True),
    "aot": Loss(batchwise.aot, whole_batch=True),
    "aot_unpaired": Loss(batchwise.aot_unpaired, whole_batch=True),
    "beta_dpo": Loss(batchwise.beta_dpo, statistic=batchwise.reward_gap, whole_batch=True),
    "alpha_dpo": Loss(batchwise.alpha_dpo, statistic=batchwise.mean_gap),
    "slic": Loss(reference_free.slic, reference=False),
    "cpo": Loss(reference_free.cpo, reference=False),
    "cpo_hinge": Loss(reference_free.cpo_hinge, reference=False),
    "cpo_ipo": Loss(reference_free.cpo_ipo, reference=False),
    "simpo": Loss(reference_free.simpo, reference=False),
    "alphapo": Loss(reference_free.alphapo, reference=False),
    "orpo": Loss(reference_free.orpo, reference=False),
    "sft": Loss(likelihood.sft, reference=False, contrasts=False),
    "sft_rejected": Loss(likelihood.sft_rejected, reference=False, contrasts=False),
    "sft_both": Loss(likelihood.sft_both, reference=False, contrasts=False),
    "simpo_paper": Loss(paper_forms.simpo_paper),
    "rpo_paper": Loss(paper_forms.rpo_paper),
    "beta_dpo_paper": Loss(paper_forms.beta_dpo_paper, statistic=scores.score_gap, whole_batch=True),
    "rao_kupper": Loss(ties.rao_kupper, ties=True, two_sided=True),
    "davidson": Loss(ties.davidson, ties=True, two_sided=True),
    "fa_dpo": Loss(noisy_labels.fa_dpo),
    "wdpo": Loss(noisy_labels.wdpo, whole_batch=True),
}


def combined_loss(
    pairs: PairLogprobs,
    names: Sequence[str],
    weights: Sequence[float],
    settings: LossSettings,
    running: Mapping[str, Running] | None = None,
    progress: float = 0.0,
) -> Tensor:
    """Return the weighted sum of the named losses, one value per pair; shape (B,).

    Args:
        pairs: log-probabilities of B pairs. Where they have a confidence, the sum is multiplied by it.
        names: keys of `LOSSES`.
        weights: one factor per name.
        settings: the losses' parameters.
        running: moving statistics by loss, for those that read one; default before the first step.
        progress: share of the run's steps that are done, for losses that change over a run.
    """
    total = pairs.chosen.new_zeros(pairs.chosen.shape)
    for name, weight in zip(names, weights, strict=True):
        loss = LOSSES[name]
        parameters = _parameters(loss.function, settings)
        if loss.statistic is not None:
            parameters["running"] = (running or {}).get(name) or Running.initial(pairs.chosen.device)
        if "progress" in _keywords(loss.function):
            parameters["progress"] = progress
        total = total + weight * _smoothed(loss, pairs, parameters, settings.label_smoothing == "per_pair")
    return total if pairs.confidence is None else total * pairs.confidence


def _smoothed(loss: Loss, pairs: PairLogprobs, parameters: Mapping[str, Any], per_pair: bool) -> Tensor:
    """Return a loss; where labels are uncertain per pair, P of the loss of the label and 1 - P of that of its flip."""
    if not per_pair:
        return loss.function(pairs, **parameters)
    assert pairs.label_probability is not None
    right, wrong = pairs.label_probability, 1 - pairs.label_probability
    if "label_smoothing" in parameters:
        return loss.function(pairs, **{**parameters, "label_smoothing": wrong})
    assert loss.two_sided
    return right * loss.function(pairs, **parameters) + wrong * loss.function(pairs.exchanged(), **parameters)


def statistics(pairs: PairLogprobs, names: Sequence[str], settings: LossSettings) -> dict[str, Tensor]:
    """Return, by loss, the values (B,) whose moving mean and deviation the later steps read, without gradient."""
    functions = {name: LOSSES[name].statistic for name in names}
    return {
        name: function(pairs, **_parameters(function, settings)).detach()
        for name, function in functions.items()
        if function is not None
    }


def _parameters(function: Callable[..., Tensor], settings: LossSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _keywords(function) if name in _SETTINGS}


@cache
def _keywords(function: Callable[..., Tensor]) -> tuple[str, ...]:
    named = inspect.signature(function).parameters.values()
    return tuple(p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name in _SETTINGS | _OF_THE_RUN)


def needs(names: Sequence[str], what: str) -> bool:
    """Whether any of the named losses has the attribute `what` of `Loss`: reference, margin, mismatched, ..."""
    return any(getattr(LOSSES[name], what) for name in names)


def reads_setting(name: str, setting: str) -> bool:
    """Whether a loss reads a field of `LossSettings`."""
    return setting in _keywords(LOSSES[name].function)


def reads_divergence(name: str) -> bool:
    """Whether a loss can be taken with another divergence from the reference than the reverse KL."""
    return reads_setting(name, "f_divergence_type")


def smooths_per_pair(name: str) -> bool:
    """Whether a loss can take a probability of each pair's label: it is smoothed, or has both sides.

    Of a loss that compares the answers of several pairs, one label says too little.
    """
    loss = LOSSES[name]
    return loss.two_sided or (reads_setting(name, "label_smoothing") and not loss.whole_batch)
