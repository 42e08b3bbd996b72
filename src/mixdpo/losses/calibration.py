"""Reward calibration: a loss keeps its value, and its gradient is shared out anew between chosen and rejected answers.

Every loss of two answers moves the weights along the gradients ("scores") of both log-probabilities, the chosen answer
up and the rejected one down, each with an "incentive" of its own, the loss's derivative. Where the rejected answer's
share, incentive times norm of the score, is the larger one, it takes the chosen answer down with it. Calibration
multiplies the one incentive by a factor and divides the other by it, so that the shares become equal.

Source: Chen et al. 2026, "Towards disentangled preference optimization dynamics" (arXiv 2604.18239), as its authors'
code has it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixdpo.losses.types import PairLogprobs


def incentives(pairs: PairLogprobs, losses: Tensor) -> Tensor:
    """Return how much losses fall per nat per token by which chosen answers rise, or rejected ones fall.

    Args:
        pairs: log-probabilities of B pairs, calibrated or not.
        losses: shape (B,), computed from them; their graph is kept.

    Returns:
        float, shape (2, B), without gradient; negative where the loss pushes the other way.
    """
    by_chosen, by_rejected = torch.autograd.grad(losses.sum(), (pairs.chosen, pairs.rejected), retain_graph=True)
    return torch.stack([-by_chosen * pairs.chosen_tokens, by_rejected * pairs.rejected_tokens])


def calibrated(pairs: PairLogprobs, factor: Tensor) -> PairLogprobs:
    """Return the same values, with the gradient of chosen answers times `factor` (0-d), of rejected ones over it."""
    return replace(
        pairs,
        chosen=_with_gradient_times(pairs.chosen, factor),
        rejected=_with_gradient_times(pairs.rejected, 1 / factor),
    )


def equalising_factor(logs: Tensor) -> Tensor:
    """Return sqrt(|s_l| d_l / (|s_w| d_w)), 0-d, with which both answers' shares of the gradient become equal.

    Args:
        logs: float, shape (4,): logarithms of the incentives d_w and d_l, and of the norms |s_w| and |s_l|.
    """
    incentive_w, incentive_l, norm_w, norm_l = logs.unbind()
    return torch.exp((norm_l + incentive_l - norm_w - incentive_w) / 2)


def _with_gradient_times(values: Tensor, factor: Tensor) -> Tensor:
    fixed = values.detach()
    return fixed + factor * (values - fixed)  # the difference is 0, so that no value is rounded
