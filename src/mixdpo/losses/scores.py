"""What an answer scores against the reference, and how sums over tokens may be weighed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.types import PairLogprobs

# exp() of more than this is infinite in float32.
_LARGEST_EXPONENT = 80.0


def answer_scores(pairs: PairLogprobs, f_divergence_type: str, alpha: float) -> tuple[Tensor, Tensor]:
    """Return f'(pi / pi_ref) of the chosen and the rejected answer; shapes (B,).

    With the reverse KL divergence, DPO's own, that is the log-ratio. Constants that cancel between the two are as
    in TRL. Exponents are cut at 80, where float32 ends.

    Args:
        pairs: log-probabilities of B pairs.
        f_divergence_type: `reverse_kl`: log t; `forward_kl`: 1 - 1/t; `js_divergence`: log(2t / (1 + t));
            `alpha_divergence`: (t^(alpha-1) - 1) / (alpha - 1), with t = pi / pi_ref.
        alpha: of the alpha divergence; at 1 it is the reverse KL.

    Source: Wang et al. 2023, "Beyond Reverse KL" (arXiv 2309.16240), table 1.
    """
    chosen, rejected = pairs.chosen_log_ratio, pairs.rejected_log_ratio
    if f_divergence_type == "forward_kl":
        return 1 - _exp(-chosen), 1 - _exp(-rejected)
    if f_divergence_type == "js_divergence":
        return math.log(2) + F.logsigmoid(chosen), math.log(2) + F.logsigmoid(rejected)
    if f_divergence_type == "alpha_divergence" and abs(alpha - 1) >= 1e-6:
        return (_exp((alpha - 1) * chosen) - 1) / (alpha - 1), (_exp((alpha - 1) * rejected) - 1) / (alpha - 1)
    return chosen, rejected


def score_gap(
    pairs: PairLogprobs, f_divergence_type: str = "reverse_kl", f_alpha_divergence_coef: float = 1.0
) -> Tensor:
    """Return the chosen answer's score minus the rejected one's; shape (B,). For the reverse KL it is DPO's h."""
    chosen, rejected = answer_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    return chosen - rejected


def discount_tail(whole: Tensor, shared: Tensor, ld_alpha: float) -> Tensor:
    """Return shared + ld_alpha * (whole - shared): tokens beyond the shorter answer's length count less.

    Args:
        whole: log-probability of an answer, shape (B,).
        shared: that of its first min(|y_w|, |y_l|) tokens, shape (B,).
        ld_alpha: in [0, 1]; 1 changes nothing.

    Source: Liu et al. 2024, "Length desensitization in DPO" (arXiv 2409.06411), equation 9.
    """
    return shared + ld_alpha * (whole - shared)


def wpo_weight(chosen_alignment: Tensor, rejected_alignment: Tensor) -> Tensor:
    """Return the weight of a pair by how probable its answers are under the policy; shape (B,), without gradient.

    The product of exp(mean over tokens of [log pi(y_t) - log sum_v pi(v)^2]) of both answers.

    Args:
        chosen_alignment: that mean of the chosen answer, shape (B,).
        rejected_alignment: that mean of the rejected answer, shape (B,).

    Source: Zhou et al. 2024, "WPO" (arXiv 2406.11827), equation 2 with the sampled alignment of section 3.2.
    """
    return torch.exp(chosen_alignment + rejected_alignment).detach()


def _exp(x: Tensor) -> Tensor:
    return torch.exp(torch.clamp(x, max=_LARGEST_EXPONENT))
