"""Losses that need no reference model. Each returns one value per pair, shape (B,).

p = log pi(y | x) / |y|, the mean per token; NLL is -p of the chosen answer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.preference import smoothed_log_loss
from mixdpo.losses.types import PairLogprobs

# A probability of one has infinite odds; a mean log-probability nearer to 0 than this counts as this.
_LARGEST_MEAN = -1e-6
# exp() of more than this is infinite in float32.
_LARGEST_EXPONENT = 80.0


def slic(pairs: PairLogprobs, *, slic_delta: float, slic_lambda: float) -> Tensor:
    """max(0, delta - log pi(y_w) + log pi(y_l)) + lambda * NLL per token.

    Source: Zhao et al. 2023, "SLiC-HF" (arXiv 2305.10425), equation 2, regularised by the chosen answer.
    """
    return torch.relu(slic_delta - pairs.chosen + pairs.rejected) + slic_lambda * pairs.chosen_nll


def cpo(pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, cpo_alpha: float) -> Tensor:
    """-log sigmoid(beta (log pi(y_w) - log pi(y_l))), smoothed, + alpha * NLL per token.

    Source: Xu et al. 2024, "Contrastive preference optimization" (arXiv 2401.08417), equations 3 and 5.
    """
    return smoothed_log_loss(beta * (pairs.chosen - pairs.rejected), label_smoothing) + cpo_alpha * pairs.chosen_nll


def cpo_hinge(pairs: PairLogprobs, *, beta: float, cpo_alpha: float) -> Tensor:
    """max(0, 1 - beta (log pi(y_w) - log pi(y_l))) + alpha * NLL per token.

    `slic` in other units: beta times `slic` with delta = 1 / beta and lambda = alpha / beta.

    Source: `hinge` of TRL's CPOTrainer.
    """
    return torch.relu(1 - beta * (pairs.chosen - pairs.rejected)) + cpo_alpha * pairs.chosen_nll


def cpo_ipo(pairs: PairLogprobs, *, beta: float, cpo_alpha: float) -> Tensor:
    """(p_w - p_l - 1 / (2 beta))^2 + alpha * NLL per token: `ipo` against a uniform reference.

    Source: `ipo` of TRL's CPOTrainer.
    """
    return (pairs.chosen_mean - pairs.rejected_mean - 1 / (2 * beta)) ** 2 + cpo_alpha * pairs.chosen_nll


def simpo(pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, simpo_gamma: float) -> Tensor:
    """-log sigmoid(beta (p_w - p_l) - gamma), smoothed. Gamma over beta is the target margin in nats per token.

    Source: Meng et al. 2024, "SimPO" (arXiv 2405.14734), equation 6.
    """
    return smoothed_log_loss(beta * (pairs.chosen_mean - pairs.rejected_mean) - simpo_gamma, label_smoothing)


def alphapo(
    pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, simpo_gamma: float, alphapo_alpha: float
) -> Tensor:
    """SimPO with the reward (1 - exp(-alpha p)) / alpha in place of p; as alpha goes to 0 it is SimPO.

    Source: Gupta et al. 2025, "AlphaPO" (arXiv 2501.03884), equation 8.
    """
    if alphapo_alpha == 0:
        return simpo(pairs, beta=beta, label_smoothing=label_smoothing, simpo_gamma=simpo_gamma)
    chosen, rejected = (
        -torch.expm1((-alphapo_alpha * mean).clamp(max=_LARGEST_EXPONENT)) / alphapo_alpha
        for mean in (pairs.chosen_mean, pairs.rejected_mean)
    )
    return smoothed_log_loss(beta * (chosen - rejected) - simpo_gamma, label_smoothing)


def orpo(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """NLL per token - beta * log sigmoid(log odds(y_w) - log odds(y_l)), odds = exp(p) / (1 - exp(p)).

    Source: Hong et al. 2024, "ORPO" (arXiv 2403.07691), equations 4, 6 and 7, with lambda = beta.
    """
    log_odds = _log_odds(pairs.chosen_mean) - _log_odds(pairs.rejected_mean)
    return pairs.chosen_nll - beta * F.logsigmoid(log_odds)


def _log_odds(mean: Tensor) -> Tensor:
    mean = mean.clamp(max=_LARGEST_MEAN)
    return mean - torch.log(-torch.expm1(mean))
