"""Losses that compare the two answers of a pair. Each returns one value per pair, shape (B,)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.types import PairLogprobs


def dpo(pairs: PairLogprobs, *, beta: float, label_smoothing: float) -> Tensor:
    """Direct preference optimisation; with label smoothing, conservative DPO (cDPO).

    -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h), where
    h = [log pi(y_w) - log pi_ref(y_w)] - [log pi(y_l) - log pi_ref(y_l)], sums over tokens.

    At h = 0 the value is ln 2 for every beta and eps. Example: beta = 0.1, eps = 0, h = 10 gives
    -log sigmoid(1) = 0.3133.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        label_smoothing: eps in [0, 0.5), the assumed share of flipped labels.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; Mitchell 2023, "A note on DPO with noisy
    preferences", equation 3; the MixDPO paper (arXiv 2602.00954) uses it on large-margin pairs.
    """
    logits = beta * (pairs.chosen_log_ratio - pairs.rejected_log_ratio)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
