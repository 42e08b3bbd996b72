"""The moments of a run for which transformers' Trainer has no method to override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerState

if TYPE_CHECKING:
    from mixdpo.training.trainer import MixDPOTrainer


class PlanCallback(TrainerCallback):
    """Calls the trainer before its first step, before each epoch, and after each optimizer step."""

    def __init__(self, trainer: MixDPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Compute the reference and say what is about to happen."""
        self.trainer.before_first_step()

    def on_epoch_begin(self, args: Any, state: TrainerState, *rest: Any, **kwargs: Any) -> None:
        """Tell the sampler which epoch comes."""
        self.trainer.start_epoch(int(state.epoch or 0))

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Move what the losses carry from step to step."""
        self.trainer.loss_state.end_step(self.trainer.state.global_step)
