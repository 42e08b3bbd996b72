"""The part of the trainer that ends a run at the first value that is not finite, before such weights are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from mixdpo.common.errors import RunError
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.finite import (
    StepRecords,
    broken_step_error,
    broken_weights_error,
    check_loss_scale,
    not_finite_anywhere,
    smaller_updates,
    steps_between_looks,
    weights_not_finite,
)
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.saving import save_descriptions, saves_shards, without_tied_copies


class FiniteTrainer(Trainer):
    """Transformers' Trainer that looks at losses, gradients and weights, and saves only finite ones."""

    args: MixDPOConfig
    train_dataset: PlannedPairs
    _first_step: int
    _steps: StepRecords

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm of a step's gradients, which the optimizer has not seen yet."""
        norm = super()._get_grad_norm(model, grad_norm)
        done = self.state.global_step
        if not self.args.fp16:  # there infinite ones are part of the work: the scale is lowered and the step skipped
            self._steps.add_gradient(done + 1, norm)
        at_an_end = done + 1 in (self._first_step, self.state.max_steps)
        if at_an_end or (done + 1) % steps_between_looks(self.args.device) == 0:
            self._stop_if_broken(before_update=True)
        return norm

    def _stop_if_broken(self, before_update: bool = False) -> None:
        """Raise `RunError` on all processes if a step since the last call was not finite on any.

        `before_update`: the optimizer has not changed the weights yet since the last step was computed.
        """
        broken = self._steps.first_broken(self.accelerator, self.train_dataset.reads_reference)
        if broken is None:
            check_loss_scale(self.accelerator.scaler, self.state.global_step)
            return
        raise broken_step_error(
            broken,
            self.train_dataset.loaded,
            smaller_updates(self.model_wrapped, self.args),
            is_first=broken.step == self._first_step,
            weights=not_finite_anywhere(self.model_wrapped, self.accelerator) if before_update else (),
        )

    def _check_weights(self) -> None:
        """Raise `RunError` on all processes if a step or a weight is not finite on any."""
        self._stop_if_broken()
        if found := not_finite_anywhere(self.model_wrapped, self.accelerator):
            raise self._broken_weights(found)

    def _broken_weights(self, names: list[str]) -> RunError:
        return broken_weights_error(self.state.global_step, names, smaller_updates(self.model_wrapped, self.args))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write model and tokenizer; of weights in shards the whole ones, unless this is part of a checkpoint.

        Raises:
            RunError: a weight is NaN or infinite.
        """
        if found := weights_not_finite(self.model_wrapped):
            raise self._broken_weights(found)
        if not saves_shards(self.accelerator):
            super().save_model(output_dir, _internal_call=True)  # else transformers would push the run's folder
        elif not _internal_call:  # transformers writes no model of weights whose checkpoints are shards
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        elif self.args.should_save:
            save_descriptions(self.model, self.processing_class, Path(output_dir or self.args.output_dir or "."))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict and without_tied_copies(self.model, state_dict))
