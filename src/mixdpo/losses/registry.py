"""All losses by name, with what each needs to be computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from mixdpo.losses.preference import dpo
from mixdpo.losses.sft import sft
from mixdpo.losses.types import PairLogprobs


@dataclass(frozen=True)
class Loss:
    """A loss and what the training step must provide for it.

    Attributes:
        function: `(pairs, **parameters) -> Tensor` of shape (B,).
        parameters: names of the fields of `LossSettings` it takes.
        needs_reference: whether it reads the reference's log-probabilities.
        value_at_reference: its value for every pair while the policy still equals the reference, if it has one.
    """

    function: Callable[..., Tensor]
    parameters: tuple[str, ...]
    needs_reference: bool
    value_at_reference: float | None = None


LOSSES: Final[dict[str, Loss]] = {
    "sigmoid": Loss(dpo, ("beta", "label_smoothing"), needs_reference=True, value_at_reference=0.6931471805599453),
    "sft": Loss(sft, (), needs_reference=False),
}


@dataclass(kw_only=True, frozen=True)
class LossSettings:
    """The parameters of the losses, named as in TRL."""

    beta: float
    label_smoothing: float


def combined_loss(
    pairs: PairLogprobs, names: Sequence[str], weights: Sequence[float], settings: LossSettings
) -> Tensor:
    """Return the weighted sum of the named losses, one value per pair; shape (B,)."""
    total = pairs.chosen.new_zeros(pairs.chosen.shape)
    for name, weight in zip(names, weights, strict=True):
        loss = LOSSES[name]
        parameters = {parameter: getattr(settings, parameter) for parameter in loss.parameters}
        total = total + weight * loss.function(pairs, **parameters)
    return total


def needs_reference(names: Sequence[str]) -> bool:
    """Whether any of the named losses reads the reference's log-probabilities."""
    return any(LOSSES[name].needs_reference for name in names)
