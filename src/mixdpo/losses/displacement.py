"""Losses that keep the likelihood of chosen answers from falling. One value per pair, shape (B,).

r = log pi(y) - log pi_ref(y) of an answer, summed over tokens. `preference.dpop` is of this kind, too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.types import PairLogprobs


def dpo_shift(
    pairs: PairLogprobs,
    *,
    beta: float,
    dpo_shift_lambda: float,
    dpo_shift_lambda_end: float | None,
    progress: float = 0.0,
) -> Tensor:
    """-log sigmoid(beta (r_w - f r_l)): the rejected answer counts less, so that the chosen one need not fall with it.

    f goes in a straight line from `dpo_shift_lambda` to `dpo_shift_lambda_end`, or stays where that is None; f = 1 is
    DPO.

    Args:
        pairs: log-probabilities of B pairs.
        beta: strength of the pull to the reference, per nat.
        dpo_shift_lambda: f at the run's first step, in (0, 1].
        dpo_shift_lambda_end: f after the run's last step, in (0, 1].
        progress: share of the run's steps that are done, in [0, 1].

    Source: Yang et al. 2025, "DPO-Shift" (arXiv 2502.07599), f(lambda) with the strategies fixed, increase_linear and
    decrease_linear of the authors' code.
    """
    end = dpo_shift_lambda if dpo_shift_lambda_end is None else dpo_shift_lambda_end
    share = dpo_shift_lambda + (end - dpo_shift_lambda) * progress
    return -F.logsigmoid(beta * (pairs.chosen_log_ratio - share * pairs.rejected_log_ratio))


def hypo(pairs: PairLogprobs, *, beta: float) -> Tensor:
    """-log sigmoid(beta (D - max(0, D_ref))), D = log pi(y_w) - log pi(y_l), D_ref that of the reference.

    DPO, except that a reference which prefers the rejected answer counts as undecided: the policy has to prefer the
    chosen answer itself, not only to do so more than the reference.

    Source: Yuan et al. 2026, "Mitigating mismatch within reference-based preference optimization" (arXiv 2602.11902),
    its conditional reference.
    """
    reference = torch.relu(pairs.ref_chosen - pairs.ref_rejected)
    return -F.logsigmoid(beta * (pairs.chosen - pairs.rejected - reference))


def chosen_floor(pairs: PairLogprobs) -> Tensor:
    """max(0, log pi_ref(y_w) - log pi(y_w)) / |y_w|: nats per token by which the chosen answer is under the reference.

    To be added to another loss. DPOP has the same term, summed over tokens, within the sigmoid, where it loses its
    gradient with the pair that is won; here it keeps it.

    Source: the positive regularisation of Wang et al. 2025, "Linear preference optimization" (arXiv 2508.14947), as
    its authors' code adds it to any loss; weight 10 there.
    """
    return torch.relu(-pairs.chosen_log_ratio) / pairs.chosen_tokens
