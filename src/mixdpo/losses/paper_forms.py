"""Forms that the MixDPO paper's experiments used where they are not those of the original publications.

For replicating its baselines; the originals are `simpo`, `cpo`, `rpo` and `beta_dpo`. (Its Cal-DPO is `cal_dpo` with
cal_dpo_weight = 0.5, its MixIPO uses `ipo_sum`.) Values of shape (B,).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mixdpo.losses.batchwise import _LEAST_BETA, kept_weight
from mixdpo.losses.preference import smoothed_log_loss
from mixdpo.losses.scores import score_gap
from mixdpo.losses.types import PairLogprobs, Running


def simpo_paper(pairs: PairLogprobs, *, beta: float, label_smoothing: Tensor | float, simpo_gamma: float) -> Tensor:
    """-log sigmoid(beta (h - gamma)), smoothed, h of sums with the reference; gamma = 0.5 in nats there.

    Its "CPO" is the same without smoothing.
    """
    return smoothed_log_loss(beta * (score_gap(pairs) - simpo_gamma), label_smoothing)


def rpo_paper(pairs: PairLogprobs, *, rpo_alpha: float) -> Tensor:
    """-log sigmoid(h), without beta, + alpha * NLL of the chosen answer over the tokens of prompt and answer."""
    assert pairs.prompt_tokens is not None
    tokens = pairs.prompt_tokens + pairs.chosen_tokens
    return -F.logsigmoid(score_gap(pairs)) + rpo_alpha * pairs.chosen_nll * pairs.chosen_tokens / tokens


def beta_dpo_paper(
    pairs: PairLogprobs, *, beta: float, beta_dpo_alpha: float, beta_dpo_keep: float, running: Running
) -> Tensor:
    """beta-DPO with a beta of each pair's own: beta (1 + alpha (h - its moving mean)), at least 0.001."""
    gap = score_gap(pairs)
    adapted = (beta * (1 + beta_dpo_alpha * (gap.detach() - running.mean))).clamp(min=_LEAST_BETA)
    return -F.logsigmoid(adapted * gap) * kept_weight(gap.detach(), running, beta_dpo_keep)
