"""What a loss is given."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PairLogprobs:
    """Log-probabilities of B pairs, summed over trained tokens; float32, shape (B,), in nats.

    A value that a pair's route did not compute is NaN, so a loss that uses it by mistake shows at once. The optional
    fields are there when a loss asks for them.

    Attributes:
        chosen: log pi(y_w | x) of the policy.
        rejected: log pi(y_l | x) of the policy.
        ref_chosen: log pi_ref(y_w | x) of the frozen reference.
        ref_rejected: log pi_ref(y_l | x) of the frozen reference.
        chosen_tokens: number of tokens summed in `chosen`: |y_w|, the trained ones.
        rejected_tokens: number of tokens summed in `rejected`.
        prompt_tokens: number of tokens of the prompt.
        margin: the plan's margin of each pair, in the metric's units, larger = easier.
        kl: mean of log pi(y' | x) - log pi_ref(y' | x) over answers y' to other prompts of the micro-batch on all
            processes, the same for every pair, without gradient.
        chosen_whole: log pi(y_w | x) where `chosen` is length-desensitised (`discount_tail`), else None.
        rejected_whole: the same of the rejected answer.
        confidence: weight above 0 of each pair under the policy (`wpo_weight`), without gradient.
        label_probability: probability in [0, 1] that a pair's label is right.
        chosen_score_norm: norm of the gradient of log pi(y_w | x) / |y_w| with respect to the head's weight.
        rejected_score_norm: the same of the rejected answer.
        tie: bool, whether the two answers of a pair count as equally good.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    prompt_tokens: Tensor | None = None
    margin: Tensor | None = None
    kl: Tensor | None = None
    chosen_whole: Tensor | None = None
    rejected_whole: Tensor | None = None
    confidence: Tensor | None = None
    label_probability: Tensor | None = None
    chosen_score_norm: Tensor | None = None
    rejected_score_norm: Tensor | None = None
    tie: Tensor | None = None

    def select(self, index: Tensor) -> PairLogprobs:
        """Return the pairs of `index` (int64, shape (K,))."""
        values = (getattr(self, field.name) for field in fields(self))
        return PairLogprobs(*(None if value is None else value[index] for value in values))  # type: ignore[arg-type]

    def exchanged(self) -> PairLogprobs:
        """Return these pairs with the two answers of each exchanged, as if their labels were flipped.

        Margins and label probabilities speak of the labels as they are, so there are none.
        """
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            ref_chosen=self.ref_rejected,
            ref_rejected=self.ref_chosen,
            chosen_tokens=self.rejected_tokens,
            rejected_tokens=self.chosen_tokens,
            chosen_whole=self.rejected_whole,
            rejected_whole=self.chosen_whole,
            chosen_score_norm=self.rejected_score_norm,
            rejected_score_norm=self.chosen_score_norm,
            margin=None,
            label_probability=None,
        )

    def at_reference(self, chosen_shift: Tensor | float = 0.0, rejected_shift: Tensor | float = 0.0) -> PairLogprobs:
        """Return these pairs as a policy sees them that equals the reference, or is that many nats apart from it.

        Of length-desensitised answers the reference gives no whole log-probability, so the policy's own stay.
        """
        return replace(self, chosen=self.ref_chosen + chosen_shift, rejected=self.ref_rejected + rejected_shift)

    @property
    def chosen_log_ratio(self) -> Tensor:
        """log pi(y_w | x) - log pi_ref(y_w | x); shape (B,)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_log_ratio(self) -> Tensor:
        """log pi(y_l | x) - log pi_ref(y_l | x); shape (B,)."""
        return self.rejected - self.ref_rejected

    @property
    def chosen_mean(self) -> Tensor:
        """log pi(y_w | x) / |y_w|; shape (B,), nats per token."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """log pi(y_l | x) / |y_l|; shape (B,), nats per token."""
        return self.rejected / self.rejected_tokens

    @property
    def chosen_nll(self) -> Tensor:
        """-log pi(y_w | x) / |y_w| over all tokens; shape (B,), nats per token."""
        return -(self.chosen if self.chosen_whole is None else self.chosen_whole) / self.chosen_tokens

    @property
    def rejected_nll(self) -> Tensor:
        """-log pi(y_l | x) / |y_l| over all tokens; shape (B,), nats per token."""
        return -(self.rejected if self.rejected_whole is None else self.rejected_whole) / self.rejected_tokens


@dataclass(frozen=True)
class Running:
    """Moving mean and standard deviation of a statistic over the optimizer steps before this one; 0-d, float32."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def initial(cls, device: torch.device | str = "cpu") -> Running:
        """Before the first step: mean 0, deviation 1."""
        return cls(torch.zeros((), device=device), torch.ones((), device=device))
