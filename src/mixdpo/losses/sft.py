"""The likelihood losses that small-margin pairs are routed to. Values of shape (B,), in nats per token.

The mean is over the tokens of each answer, so a long answer weighs as much as a short one (paper, section 2: S is
the mean per-token log-probability). No reference.
"""

from __future__ import annotations

from torch import Tensor

from mixdpo.losses.types import PairLogprobs


def sft(pairs: PairLogprobs) -> Tensor:
    """-log pi(y_w | x) / |y_w|: imitate the chosen answer."""
    return pairs.chosen_nll


def sft_rejected(pairs: PairLogprobs) -> Tensor:
    """-log pi(y_l | x) / |y_l|: imitate the rejected answer, a control."""
    return pairs.rejected_nll


def sft_both(pairs: PairLogprobs) -> Tensor:
    """Half the sum of both: imitate either answer."""
    return (pairs.chosen_nll + pairs.rejected_nll) / 2
