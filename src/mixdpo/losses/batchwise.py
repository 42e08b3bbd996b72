"""Losses of a pair that depend on the other pairs of its micro-batch or on steps before. Values of shape (B,)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.preference import smoothed_log_loss
from mixdpo.losses.scores import score_gap
from mixdpo.losses.types import PairLogprobs, Running

_LEAST_BETA = 1e-3
_LEAST_DEVIATION = 1e-6


def aot(pairs: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """DPO's loss of the k-th smallest policy log-ratio against the k-th smallest of the reference, smoothed.

    The log-ratios log pi(y_w) - log pi(y_l) of policy and reference are sorted within the micro-batch by themselves,
    so the policy's distribution is to dominate the reference's. Each value is that of the policy's pair.

    Source: Melnyk et al. 2024, "Alignment via optimal transport" (arXiv 2406.05882), paired variant.
    """
    policy, reference = pairs.chosen - pairs.rejected, pairs.ref_chosen - pairs.ref_rejected
    return smoothed_log_loss(beta * (policy - _of_equal_rank(policy, reference)), label_smoothing)


def aot_unpaired(pairs: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """The same of the k-th smallest log-ratio of chosen answers against the k-th smallest of rejected ones.

    Each value is that of the chosen answer's pair.

    Source: Melnyk et al. 2024 (arXiv 2406.05882), unpaired variant.
    """
    chosen, rejected = pairs.chosen_log_ratio, pairs.rejected_log_ratio
    return smoothed_log_loss(beta * (chosen - _of_equal_rank(chosen, rejected)), label_smoothing)


def _of_equal_rank(values_B: Tensor, others_B: Tensor) -> Tensor:
    """Return for each value the other that has its rank among the others."""
    return others_B.sort().values[values_B.argsort().argsort()]


def reward_gap(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """beta h, the implicit reward margin of each pair; shape (B,)."""
    return beta * score_gap(pairs)


def beta_dpo(
    pairs: PairLogprobs, *, beta: float, beta_dpo_alpha: float, beta_dpo_keep: float, running: Running
) -> Tensor:
    """DPO with the batch's own beta, on the pairs whose reward margin is typical.

    beta_batch = beta (1 + alpha (mean of M over the micro-batch - its moving mean)), at least 0.001, with M = beta h.
    A share of the pairs is kept, drawn without replacement by the density of M under the normal distribution of its
    moving mean and deviation; the others have no loss, and the kept ones weigh more, so that the mean is theirs.

    Source: Wu et al. 2024, "beta-DPO" (arXiv 2407.08639), equations 6 to 9; alpha = 0.6, 80 % kept.
    """
    gap = reward_gap(pairs, beta=beta)
    adapted = (beta * (1 + beta_dpo_alpha * (gap.detach().mean() - running.mean))).clamp(min=_LEAST_BETA)
    return -F.logsigmoid(adapted * score_gap(pairs)) * kept_weight(gap.detach(), running, beta_dpo_keep)


def kept_weight(gap: Tensor, running: Running, keep: float) -> Tensor:
    """Draw max(1, floor(keep * B)) of B pairs by the normal density of their gap; B over their number, or 0; (B,)."""
    count = max(1, int(keep * len(gap)))
    if count >= len(gap):
        return torch.ones_like(gap)
    distance = (gap - running.mean) / running.deviation.clamp(min=_LEAST_DEVIATION)
    # Every pair keeps some chance, or there may be fewer candidates than draws.
    density = torch.exp(-0.5 * distance.square()).clamp(min=1e-12)
    kept = torch.multinomial(density, count, replacement=False)
    return torch.zeros_like(gap).index_fill(0, kept, len(gap) / count)


def mean_gap(pairs: PairLogprobs) -> Tensor:
    """h with every log-ratio per token; shape (B,), nats per token."""
    return pairs.chosen_log_ratio / pairs.chosen_tokens - pairs.rejected_log_ratio / pairs.rejected_tokens


def alpha_dpo(
    pairs: PairLogprobs, *, beta: float, simpo_gamma: float, alpha_dpo_alpha: float, running: Running
) -> Tensor:
    """SimPO whose target margin adapts to the pair: -log sigmoid(beta (p_w - p_l) - gamma - beta alpha M*).

    p is the mean log-probability per token; M* is `mean_gap`, standardised by its moving mean and deviation, without
    gradient. (Published with gamma and alpha inside beta, that is as gamma / beta and alpha.)

    Source: Wu et al. 2024, "AlphaDPO" (arXiv 2410.10148), equation 12 and section 3.3.
    """
    standardised = (mean_gap(pairs) - running.mean) / running.deviation.clamp(min=_LEAST_DEVIATION)
    gap = pairs.chosen_mean - pairs.rejected_mean - alpha_dpo_alpha * standardised.detach()
    return -F.logsigmoid(beta * gap - simpo_gamma)
