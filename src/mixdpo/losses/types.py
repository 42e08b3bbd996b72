"""What a loss is given."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class PairLogprobs:
    """Log-probabilities of B pairs, summed over completion tokens; float32, shape (B,), in nats.

    A value that a pair's route did not compute is NaN, so a loss that uses it by mistake shows at once.

    Attributes:
        chosen: log pi(y_w | x) of the policy.
        rejected: log pi(y_l | x) of the policy.
        ref_chosen: log pi_ref(y_w | x) of the frozen reference.
        ref_rejected: log pi_ref(y_l | x) of the frozen reference.
        chosen_tokens: number of tokens summed in `chosen`.
        rejected_tokens: number of tokens summed in `rejected`.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    def select(self, index: Tensor) -> PairLogprobs:
        """Return the pairs of `index` (int64, shape (K,))."""
        return PairLogprobs(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def chosen_log_ratio(self) -> Tensor:
        """log pi(y_w | x) - log pi_ref(y_w | x); shape (B,)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_log_ratio(self) -> Tensor:
        """log pi(y_l | x) - log pi_ref(y_l | x); shape (B,)."""
        return self.rejected - self.ref_rejected
