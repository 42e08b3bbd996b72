"""The end of a run whose metric no longer improves."""

from __future__ import annotations

import logging
from typing import Any

from transformers import EarlyStoppingCallback, IntervalStrategy, TrainerControl, TrainerState, TrainingArguments

from mixdpo.common.errors import InputError
from mixdpo.training.answers_settings import ANSWERS, AnswersSettings
from mixdpo.training.config import MixDPOConfig

logger = logging.getLogger(__name__)


class EarlyStopping(EarlyStoppingCallback):
    """Transformers' callback, which counts on where a run is continued, and passes over an evaluation without its
    metric: a judge that failed says nothing of the policy."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read back how often the metric has not improved; a run that had stopped ends at once."""
        states: Any = state.stateful_callbacks  # of a run that goes on, by name
        kept = states.get(type(self).__name__) if state.global_step > 0 else None
        self.early_stopping_patience_counter = kept["attributes"]["early_stopping_patience_counter"] if kept else 0
        control.should_training_stop |= self._at_its_end

    @property
    def _at_its_end(self) -> bool:
        """Whether the metric has not improved for as long as patience allows."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have a step logged after which the run may stop, as the last step of any run is."""
        control.should_log |= control.should_evaluate and args.logging_strategy != IntervalStrategy.NO

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count, and stop the run when patience is at its end."""
        if metrics is None or best_metric(args) not in metrics:
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self._at_its_end and state.is_world_process_zero:
            since = f"in {self.early_stopping_patience_counter} evaluations"
            logger.info(f"step {state.global_step}: stopped, for {args.metric_for_best_model} did not improve {since}")


def best_metric(args: TrainingArguments) -> str | None:
    """Return the name in an evaluation of the metric that `metric_for_best_model` names."""
    name = args.metric_for_best_model
    return name if name is None or name.startswith("eval_") else f"eval_{name}"


def check_best_metric(args: MixDPOConfig, answers: AnswersSettings | None, measured: bool | list[str]) -> None:
    """Raise `InputError` where no evaluation has the metric by which the best model is told, or a run is stopped.

    Args:
        args: `metric_for_best_model` is read.
        answers: what is asked of the policy, if anything.
        measured: whether pairs are measured, or the names of several sets of them.
    """
    name = best_metric(args)
    if name is None:
        return
    named = name.removeprefix("eval_")
    known = answers.metrics if answers is not None else ()
    if named.startswith(ANSWERS) and named not in known:
        hint = f"there are {', '.join(known)}" if known else "add the section answers"
        if answers is not None and answers.judge is None:
            hint += "; those of a win rate need answers.judge"
        raise InputError(f"metric_for_best_model is {named}, which no evaluation of this run has", hint=hint)
    sets = measured if isinstance(measured, list) else []
    if not named.startswith(ANSWERS) and sets and not any(named.startswith(f"{one}_") for one in sets):
        raise InputError(
            f"metric_for_best_model is {named}, and there are several evaluation sets",
            hint=f"say of which: {' or '.join(f'{one}_{named}' for one in sets)}",
        )
    if not named.startswith(ANSWERS) and not measured:
        raise InputError(
            f"metric_for_best_model is {named}, which is measured on pairs, and this run has no eval_data",
            hint="add it" + (f", or take one of {', '.join(known)}" if known else ""),
        )
