"""Losses that read what the plan says of a pair: its margin, how sure its label is. One value per pair, shape (B,).

m is the plan's margin in the units of its metric, larger = easier; P the probability that the label is right.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.preference import dpo
from mixdpo.losses.scores import score_gap
from mixdpo.losses.types import PairLogprobs

# The offset of a tie is minus infinity; margins count as at least this.
_LEAST_MARGIN = 1e-6


def odpo(pairs: PairLogprobs, *, beta: float, odpo_alpha: float, odpo_offset: str) -> Tensor:
    """-log sigmoid(beta h - alpha f(m)): the chosen answer must win by an offset that grows with the margin.

    Args:
        pairs: log-probabilities and margins of B pairs.
        beta: strength of the pull to the reference, per nat.
        odpo_alpha: size of the offset.
        odpo_offset: f, `log` as published, where ties (m <= 0) have next to no loss, or `linear`.

    Source: Amini et al. 2024, "DPO with an offset" (arXiv 2402.10571), equation 8.
    """
    offset = torch.log(_margin(pairs).clamp(min=_LEAST_MARGIN)) if odpo_offset == "log" else _margin(pairs)
    return -F.logsigmoid(beta * score_gap(pairs) - odpo_alpha * offset)


def trust(margin: Tensor, soft_threshold: float, soft_width: float) -> Tensor:
    """Return sigmoid((m - tau) / width): 1 for easy pairs, 1/2 at the threshold, 0 for hard ones; shape (B,)."""
    return torch.sigmoid((margin - soft_threshold) / soft_width)


def margin_weighted(
    pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, soft_threshold: float, soft_width: float
) -> Tensor:
    """trust(m) * DPO: the nearer a pair to a tie, the less it weighs."""
    return trust(_margin(pairs), soft_threshold, soft_width) * dpo(pairs, beta=beta, label_smoothing=label_smoothing)


def soft_routed(
    pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, soft_threshold: float, soft_width: float
) -> Tensor:
    """trust(m) * DPO + (1 - trust(m)) * NLL of the chosen answer per token: MixDPO whose switch at tau is a slope.

    As the width goes to 0 this is MixDPO's loss (arXiv 2602.00954) with the threshold tau.
    """
    share = trust(_margin(pairs), soft_threshold, soft_width)
    return share * dpo(pairs, beta=beta, label_smoothing=label_smoothing) + (1 - share) * pairs.chosen_nll


def label_routed(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """(2P - 1)+ * DPO + (1 - (2P - 1)+) * NLL of the chosen answer per token.

    A label that is right with probability P >= 1/2 is as one that is right with probability 2P - 1 and else a coin
    flip: the first share is compared, the other imitated, as MixDPO (arXiv 2602.00954) does with pairs of either kind.
    With P = 1 it is DPO, with P <= 1/2 SFT.
    """
    assert pairs.label_probability is not None
    share = (2 * pairs.label_probability - 1).clamp(min=0)
    return share * dpo(pairs, beta=beta, label_smoothing=0.0) + (1 - share) * pairs.chosen_nll


def _margin(pairs: PairLogprobs) -> Tensor:
    assert pairs.margin is not None
    return pairs.margin
