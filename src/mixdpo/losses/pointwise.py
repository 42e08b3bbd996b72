"""Losses that hold each answer against a point instead of the other answer. One value per pair, shape (B,).

r = log pi(y) - log pi_ref(y) of an answer, summed over tokens; beta r is its implicit reward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.types import PairLogprobs, Running


def nca_pair(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """-log sigmoid(beta r_w) - 1/2 log sigmoid(-beta r_w) - 1/2 log sigmoid(-beta r_l).

    Source: Chen et al. 2024, "Noise contrastive alignment" (arXiv 2402.05369), equation 11 for K = 2 answers.
    """
    chosen, rejected = beta * pairs.chosen_log_ratio, beta * pairs.rejected_log_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def bco_pair(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """-log sigmoid(beta r_w) - log sigmoid(-beta r_l): a classifier of answers, without a reward shift, as in TRL.

    Source: Jung et al. 2024, "Binary classifier optimization" (arXiv 2404.04656), equation 7 with delta = 0.
    """
    return -F.logsigmoid(beta * pairs.chosen_log_ratio) - F.logsigmoid(-beta * pairs.rejected_log_ratio)


def mean_reward(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """Mean implicit reward of a pair's two answers; shape (B,). Its moving mean is BCO's delta."""
    return beta * (pairs.chosen_log_ratio + pairs.rejected_log_ratio) / 2


def bco(pairs: PairLogprobs, *, beta: float, running: Running) -> Tensor:
    """-log sigmoid(beta r_w - delta) - log sigmoid(-(beta r_l - delta)), delta the moving mean reward.

    Source: Jung et al. 2024 (arXiv 2404.04656), equation 7.
    """
    chosen = beta * pairs.chosen_log_ratio - running.mean
    rejected = beta * pairs.rejected_log_ratio - running.mean
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def sppo_hard(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2: the winner wins for certain.

    Source: Wu et al. 2024, "SPPO" (arXiv 2405.00675), equation 4.7 with P = 1, and eta = 1 / beta.
    """
    return (pairs.chosen_log_ratio - 0.5 / beta) ** 2 + (pairs.rejected_log_ratio + 0.5 / beta) ** 2


def apo_zero(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """1 - sigmoid(beta r_w) + sigmoid(beta r_l): chosen up, rejected down. For answers better than the model's.

    Source: D'Oosterlinck et al. 2024, "APO" (arXiv 2408.06266), equation 7.
    """
    return 1 - torch.sigmoid(beta * pairs.chosen_log_ratio) + torch.sigmoid(beta * pairs.rejected_log_ratio)


def apo_down(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """sigmoid(beta r_w) + 1 - sigmoid(beta h): both down, rejected more. For answers worse than the model's.

    Source: D'Oosterlinck et al. 2024, "APO" (arXiv 2408.06266), equation 8.
    """
    gap = pairs.chosen_log_ratio - pairs.rejected_log_ratio
    return torch.sigmoid(beta * pairs.chosen_log_ratio) + 1 - torch.sigmoid(beta * gap)


def kto(pairs: PairLogprobs, *, beta: float, desirable_weight: float, undesirable_weight: float) -> Tensor:
    """The two answers as unpaired examples against z0, an estimate of KL(pi || pi_ref): half the sum of

    w_D (1 - sigmoid(beta (r_w - z0))) and w_U (1 - sigmoid(beta (z0 - r_l))), where
    z0 = max(0, mean of log pi(y') - log pi_ref(y') over the micro-batches of all processes of a step,
    y' being answers to other prompts; no gradient.

    Source: Ethayarajh et al. 2024, "KTO" (arXiv 2402.01306), equation 8.
    """
    assert pairs.kl is not None
    z0 = pairs.kl.clamp(min=0).detach()
    desirable = 1 - torch.sigmoid(beta * (pairs.chosen_log_ratio - z0))
    undesirable = 1 - torch.sigmoid(beta * (z0 - pairs.rejected_log_ratio))
    return (desirable_weight * desirable + undesirable_weight * undesirable) / 2
