"""Losses that compare the two answers of a pair with a reference. Each returns one value per pair, shape (B,).

h = [log pi(y_w) - log pi_ref(y_w)] - [log pi(y_l) - log pi_ref(y_l)], sums over tokens, is `score_gap`. Those that
take `f_divergence_type` put f'(pi / pi_ref) in place of the log-ratios; its default leaves h as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.scores import answer_scores, score_gap
from mixdpo.losses.types import PairLogprobs

_LEAST_EPSILON = 1e-3


def smoothed_log_loss(logits: Tensor, label_smoothing: Tensor | float) -> Tensor:
    """-(1 - eps) log sigmoid(z) - eps log sigmoid(-z) of logits z (B,): logistic loss if a share eps is flipped.

    eps is one number, or one of each pair, shape (B,).
    """
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def dpo(
    pairs: PairLogprobs,
    *,
    beta: float,
    label_smoothing: Tensor | float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """Direct preference optimisation; with label smoothing, conservative DPO (cDPO).

    -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h).

    At h = 0 the value is ln 2 for every beta and eps. Example: beta = 0.1, eps = 0, h = 10 gives
    -log sigmoid(1) = 0.3133.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        label_smoothing: eps, the assumed share of flipped labels: in [0, 0.5), or of each pair in [0, 1], shape (B,).
        f_divergence_type: of `answer_scores`.
        f_alpha_divergence_coef: of `answer_scores`.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; Mitchell 2023, "A note on DPO with noisy
    preferences", equation 3; the MixDPO paper (arXiv 2602.00954) uses it on large-margin pairs.
    """
    return smoothed_log_loss(beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef), label_smoothing)


def robust_dpo(
    pairs: PairLogprobs,
    *,
    beta: float,
    label_smoothing: Tensor | float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """DPO whose mean over flipped labels is DPO on clean ones.

    [-(1 - eps) log sigmoid(beta h) + eps log sigmoid(-beta h)] / (1 - 2 eps).

    Source: Chowdhury et al. 2024, "Provably robust DPO" (arXiv 2403.00409), equation 12.
    """
    logits = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    clean, flipped = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge(
    pairs: PairLogprobs,
    *,
    beta: float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """max(0, 1 - beta h): SLiC's hinge on DPO's implicit rewards, as in RSO and TRL.

    Source: Liu et al. 2023, "RSO" (arXiv 2309.06657), equation 11. SLiC-HF's own loss is `slic`.
    """
    return torch.relu(1 - beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef))


def ipo(
    pairs: PairLogprobs,
    *,
    beta: float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """(h' - 1 / (2 beta))^2, where h' takes each answer's score per token. Units: nats per token.

    The mean over tokens is what the authors' results used, as TRL found out by asking them.

    Source: Azar et al. 2023 (arXiv 2310.12036), equation 17, with tau = beta.
    """
    chosen, rejected = answer_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    return (chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens - 1 / (2 * beta)) ** 2


def ipo_sum(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2 with sums over tokens: the equation as printed, and the paper's MixIPO.

    Source: Azar et al. 2023 (arXiv 2310.12036), equation 17.
    """
    return (score_gap(pairs) - 1 / (2 * beta)) ** 2


def dpo_norm(
    pairs: PairLogprobs,
    *,
    beta: float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """-log sigmoid(beta h'), where h' takes each answer's score per token: length-normalised DPO.

    Source: Lambert et al. 2024, "Tulu 3" (arXiv 2411.15124), equation 6; `sigmoid_norm` of TRL.
    """
    chosen, rejected = answer_scores(pairs, f_divergence_type, f_alpha_divergence_coef)
    return -F.logsigmoid(beta * (chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens))


def r_dpo(pairs: PairLogprobs, *, beta: float, r_dpo_alpha: float) -> Tensor:
    """-log sigmoid(beta h + alpha |y_w| - alpha |y_l|): a longer chosen answer needs to win by less.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        r_dpo_alpha: cost of a token in the reward, at least 0.

    Source: Park et al. 2024, "Disentangling length from quality" (arXiv 2403.19159), equation 9.
    """
    return -F.logsigmoid(beta * score_gap(pairs) + r_dpo_alpha * (pairs.chosen_tokens - pairs.rejected_tokens))


def dpop(pairs: PairLogprobs, *, beta: float, dpop_lambda: float) -> Tensor:
    """-log sigmoid(beta (h - lambda max(0, log pi_ref(y_w) - log pi(y_w)))): chosen answers must not fall.

    Source: Pal et al. 2024, "Smaug" (arXiv 2402.13228), equation 3; lambda = 50 there, 5 in the MixDPO paper.
    """
    fallen = torch.relu(-pairs.chosen_log_ratio)
    return -F.logsigmoid(beta * (score_gap(pairs) - dpop_lambda * fallen))


def cal_dpo(pairs: PairLogprobs, *, beta: float, cal_dpo_weight: float) -> Tensor:
    """-log sigmoid(h) + w [(r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2], r = log-ratio of an answer, without beta.

    Source: Xiao et al. 2024, "Cal-DPO" (arXiv 2412.14516), equation 12, where w = 1; the MixDPO paper has w = 0.5.
    """
    target = 1 / (2 * beta)
    calibration = (pairs.chosen_log_ratio - target) ** 2 + (pairs.rejected_log_ratio + target) ** 2
    return -F.logsigmoid(score_gap(pairs)) + cal_dpo_weight * calibration


def rpo(pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, rpo_alpha: float) -> Tensor:
    """DPO + alpha * NLL of the chosen answer per token. (Published with alpha before DPO.)

    Source: Pang et al. 2024, "Iterative reasoning preference optimization" (arXiv 2404.19733), equation 1.
    """
    return dpo(pairs, beta=beta, label_smoothing=label_smoothing) + rpo_alpha * pairs.chosen_nll


def exo_pair(
    pairs: PairLogprobs,
    *,
    beta: float,
    label_smoothing: Tensor | float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """KL(softmax of beta times both scores || [1 - eps, eps]): the reverse of DPO's cross-entropy.

    eps is `label_smoothing`, at least 0.001 and at most 0.999, since the divergence from a certain label is infinite.

    Source: Ji et al. 2024, "EXO" (arXiv 2402.00856), equation 16.
    """
    logits = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    epsilon = (label_smoothing + torch.zeros_like(logits)).clamp(min=_LEAST_EPSILON)
    log_right = torch.log1p(-epsilon).clamp(min=math.log(_LEAST_EPSILON))
    on_chosen = torch.sigmoid(logits) * (F.logsigmoid(logits) - log_right)
    return on_chosen + torch.sigmoid(-logits) * (F.logsigmoid(-logits) - torch.log(epsilon))


def discopop(
    pairs: PairLogprobs,
    *,
    beta: float,
    discopop_tau: float,
    f_divergence_type: str = "reverse_kl",
    f_alpha_divergence_coef: float = 1.0,
) -> Tensor:
    """(1 - s) * -log sigmoid(z) + s * exp(-z) with z = beta h and s = sigmoid(z / tau): a discovered blend.

    Source: Lu et al. 2024, "DiscoPOP" (arXiv 2406.08414), equation 5; tau = 0.05 there.
    """
    logits = beta * score_gap(pairs, f_divergence_type, f_alpha_divergence_coef)
    logistic = -F.logsigmoid(logits) * torch.sigmoid(-logits / discopop_tau)
    # s * exp(-z) in one exponent: both factors over- and underflow where their product does not.
    return logistic + torch.exp(F.logsigmoid(logits / discopop_tau) - logits)
