"""Callbacks of transformers' Trainer: the moments it has no method for, and an alarm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from transformers import IntervalStrategy, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixdpo.training.checks import displaced_buckets, displacement_warning

logger = logging.getLogger(__name__)


class AtStart(TrainerCallback):
    """Calls what it is given when training begins, with everything set up."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Call it."""
        self._call()


class PlanCallback(TrainerCallback):
    """Calls what it is given at the moments of a run.

    Args:
        before_first_step: called when training begins, with everything set up.
        start_epoch: called before each epoch with its number, the one begun before when a run continues within it.
        end_step: called after each optimizer step with the number of steps done.

    The last step is logged, also where `logging_steps` does not divide the number of steps: the values that a run ends
    with are those it is judged by.
    """

    def __init__(
        self,
        before_first_step: Callable[[], None],
        start_epoch: Callable[[int], None],
        end_step: Callable[[int], None],
    ) -> None:
        self._before_first_step, self._start_epoch, self._end_step = before_first_step, start_epoch, end_step

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin the run."""
        self._before_first_step()

    def on_epoch_begin(self, args: Any, state: TrainerState, *rest: Any, **kwargs: Any) -> None:
        """Begin an epoch."""
        self._start_epoch(int(state.epoch or 0))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End an optimizer step."""
        self._end_step(state.global_step)
        if control.should_training_stop and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True


class DisplacementAlarm(TrainerCallback):
    """Says once of every bucket that its chosen answers lose likelihood, and what that means.

    Args:
        bound: nats under the reference.
        measures_answers: whether the run measures its policy's answers, which tell more.
    """

    def __init__(self, bound: float, measures_answers: bool) -> None:
        self._bound, self._measures_answers = bound, measures_answers
        self._told: set[str] = set()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at a line of the log."""
        for bucket, change in displaced_buckets(logs or {}, self._bound).items():
            if state.is_world_process_zero and bucket not in self._told:
                self._told.add(bucket)
                step, measured = state.global_step, self._measures_answers
                logger.warning(displacement_warning(step, bucket, change, self._bound, measured))
