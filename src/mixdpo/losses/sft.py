"""The likelihood loss that small-margin pairs are routed to."""

from __future__ import annotations

from torch import Tensor

from mixdpo.losses.types import PairLogprobs


def sft(pairs: PairLogprobs) -> Tensor:
    """Mean negative log-likelihood per token of the chosen answer; shape (B,), in nats per token.

    -log pi(y_w | x) / |y_w|. The mean is over the tokens of each answer, so a long answer weighs as much as a
    short one (paper, section 2: S is the mean per-token log-probability). No reference, no rejected answer.
    """
    return mean_nll(pairs.chosen, pairs.chosen_tokens)


def mean_nll(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """Return -logprobs / tokens: summed log-probabilities (B,) to the mean loss per token (B,)."""
    return -logprobs / tokens
