"""Losses for labels of which some are flipped, each pair by itself. One value per pair, shape (B,).

z = beta h is how much larger the chosen answer's implicit reward is; l(z) = -log sigmoid(z) is DPO's loss.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.scores import score_gap
from mixdpo.losses.types import PairLogprobs

_CAP_BEFORE: Final = 0.15
_LEAST_CAP: Final = 0.02
_TINY: Final = 1e-12


def fa_dpo(
    pairs: PairLogprobs,
    *,
    beta: float,
    label_smoothing: Tensor | float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """-log[(1 - eps) sigmoid(z) + eps sigmoid(-z)]: the label is what people prefer, flipped with probability eps.

    Conservative DPO adds two losses where this adds two probabilities: a pair that the policy is sure of the other way
    has next to no gradient, one with eps = 1/2 has none, and one with eps above is learned the other way round.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        label_smoothing: eps, in [0, 0.5), or of each pair in [0, 1], shape (B,).
        f_divergence_type: of `answer_scores`.
        f_alpha_divergence_coef: of `answer_scores`.

    Source: Xu et al. 2025, "When human preferences flip" (arXiv 2512.00709), FA-DPO, where a logistic regression that
    is trained with the policy predicts eps of each pair.
    """
    z = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    epsilon = label_smoothing + torch.zeros_like(z)
    return -torch.logaddexp(torch.log1p(-epsilon) + F.logsigmoid(z), torch.log(epsilon) + F.logsigmoid(-z))


def wdpo(
    pairs: PairLogprobs,
    *,
    beta: float,
    wdpo_flips: float,
    wdpo_tail: float,
    wdpo_cap: float,
    wdpo_warmup: float,
    progress: float = 0.0,
) -> Tensor:
    """Winsorised DPO: the pairs that the policy most disagrees with are flipped in part, then high losses are capped.

    Mixed: m = (1 - p) l(z) + p l(-z), p from `flip_shares`. Capped: (1 - r) m + r T for the losses above T, the
    `wdpo_tail` quantile of m in the micro-batch; r is in proportion to m - T, at most 1, and adds up to a share of the
    B pairs, which is larger the more pairs the policy disagrees with: 0.02 + (cap - 0.02) mean of
    sigmoid(-z / mean of |z|). In the warm-up p is 0 and that share is 0.15. p, r and T have no gradient.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        wdpo_flips: sum of p over B.
        wdpo_tail: quantile in [0, 1].
        wdpo_cap: largest sum of r over B.
        wdpo_warmup: share of the run's steps.
        progress: share of the run's steps that are done, in [0, 1].

    Source: Liu et al. 2026, "wDPO" (arXiv 2603.07211), as in its authors' code (liujilong0116/CompassDPO).
    """
    z = beta * score_gap(pairs)
    if not len(z):
        return -F.logsigmoid(z)
    known = z.detach().to(torch.promote_types(z.dtype, torch.float32))
    warm = progress >= wdpo_warmup
    flips = flip_shares(known, wdpo_flips) if warm else torch.zeros_like(known)
    mixed = -(1 - flips) * F.logsigmoid(z) - flips * F.logsigmoid(-z)

    disagreement = torch.sigmoid(-known / known.abs().mean().clamp(min=_TINY)).mean()
    cap = _LEAST_CAP + (wdpo_cap - _LEAST_CAP) * disagreement if warm else _CAP_BEFORE
    losses = mixed.detach()
    bound = torch.quantile(losses, wdpo_tail)
    excess = torch.relu(losses - bound)
    capped = (cap * len(z) * excess / excess.sum().clamp(min=_TINY)).clamp(max=1)
    return (1 - capped) * mixed + capped * bound


def flip_shares(z: Tensor, share: float) -> Tensor:
    """Return by how much each label is flipped, in [0, 1], shape (B,); 0 for all if no z is negative.

    The sparsemax of max(0, -z), by how much a flip would lower the loss, times `share` * B; what is above 1 is given
    to the others in proportion.
    """
    budget = share * len(z)
    sparse = sparsemax(torch.relu(-z))
    flips = (budget * sparse).clamp(max=1)
    free = torch.where(flips < 1, sparse, 0.0)
    rest = (budget - flips.sum()) * free / free.sum().clamp(min=_TINY)
    return torch.where((z < 0).any(), (flips + rest).clamp(0, 1), 0.0)


def sparsemax(values: Tensor) -> Tensor:
    """Return the point of the simplex next to `values` (B,): nothing below 0, sum 1, small values at 0.

    Source: Martins and Astudillo 2016 (arXiv 1602.02068), algorithm 1.
    """
    values = values - values.max()  # which changes nothing but rounding
    descending = values.sort(descending=True).values
    excess = descending.cumsum(0) - 1
    rank = torch.arange(1, len(values) + 1, device=values.device)
    support = (rank * descending > excess).sum().clamp(min=1).view(1)  # 0 where a value is NaN
    return torch.relu(values - excess.gather(0, support - 1) / support)
