"""Shows how a run goes, while it trains: on standard error, or under the cell of a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from rich.console import Console
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import has_length

from mixdpo.training.config import MixDPOConfig
from mixdpo.training.progress_rows import (
    duration,
    evaluation_cells,
    progress_columns,
    training_cells,
)
from mixdpo.training.progress_views import View, view_for
from mixdpo.training.run_result import evaluation_of


class TrainingProgress(TrainerCallback):
    """Shows the run's progress on the main process.

    Args:
        routes: that pairs of the plan may take.
        hard_step: returns the optimizer step, counted from 1, from which on a loss of hard pairs trains; None where
            none is planned.
        view: shows it; default: what the standard error is.
    """

    def __init__(self, routes: Collection[str], hard_step: Callable[[], int | None], view: View | None = None) -> None:
        self._routes, self._hard_step = routes, hard_step
        self._view = view or view_for(Console(stderr=True))
        self._begin, self._evaluated = (0, 0.0), 0
        self._runs, self._explained = False, False
        self._first_hard: int | None = None

    def on_train_begin(  # type: ignore[override]  # the settings are ours
        self, args: MixDPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the view."""
        self._begin = (state.global_step, time.perf_counter())
        self._runs = state.is_world_process_zero
        if self._runs:
            hard_loss = "hard" if args.hard_loss_names else "SFT"
            self._columns = progress_columns(self._routes, state.max_steps, self._view.width, hard_loss)
            self._view.begin(self._columns, state.global_step, state.max_steps)

    def on_epoch_begin(  # type: ignore[override]
        self, args: MixDPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look where the loss of hard pairs begins; a stage, which is an epoch, has a plan of its own."""
        self._first_hard = self._hard_step() if self._runs and not self._explained else None

    def on_step_begin(  # type: ignore[override]
        self, args: MixDPOConfig, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Explain, once, why the loss is about to change its size."""
        if self._first_hard is not None and state.global_step + 1 >= self._first_hard:
            self._view.say(change_of_loss(args, self._first_hard))
            self._explained, self._first_hard = True, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self._runs:
            self._view.advance(state.global_step, self._rate(args, state), self._left(state))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        """Say how far an evaluation is."""
        self._evaluated += 1
        if self._runs and eval_dataloader is not None and has_length(eval_dataloader):
            self._view.note(f"evaluation {self._evaluated}/{len(eval_dataloader)}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the main metrics of a line of the log."""
        if not self._runs or not logs:
            return
        step = f"{state.global_step}/{state.max_steps}"
        if "loss" in logs:
            self._view.row(training_cells(self._columns, logs, step, self._left(state)))
        elif (prefix := evaluation_of(logs)) is not None:
            self._evaluated = 0
            self._view.note("")
            self._view.row(*evaluation_cells(self._columns, logs, prefix, step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the view."""
        if self._runs:
            self._view.end()
        self._runs = False

    def _rate(self, args: TrainingArguments, state: TrainerState) -> str:
        first_step, begin = self._begin
        pairs = (state.global_step - first_step) * args.train_batch_size * args.gradient_accumulation_steps
        seconds = time.perf_counter() - begin
        return f"{pairs * args.world_size / seconds:.2f} pairs/s"

    def _left(self, state: TrainerState) -> str:
        """Write how long the other steps take, evaluations between them included."""
        first_step, begin = self._begin
        if state.global_step == first_step:
            return ""
        each = (time.perf_counter() - begin) / (state.global_step - first_step)
        return duration(each * max(state.max_steps - state.global_step, 0))


def change_of_loss(args: MixDPOConfig, step: int) -> str:
    """Say what is trained from a step on, and that its loss is of another kind than that of preferences."""
    since = f"From step {step:,} on" if step > 1 else "In all steps"
    if args.hard_loss_names:
        return (
            f"{since} hard pairs are trained with {' + '.join(args.hard_loss_names)}; compare the hard loss with "
            "itself alone, and not with that of other pairs."
        )
    of_two = {"both": "both answers", "random": "one of their answers"}
    answers = of_two.get(args.sft_target, f"the {args.sft_target} answer")
    return (
        f"{since} pairs are trained with SFT on {answers}. Its loss is in nats per token and not comparable with the "
        "preference loss" + (": where the loss jumps here, the policy does not." if step > 1 else ".")
    )


def show_own_progress(trainer: Trainer, progress: TrainingProgress | None) -> None:
    """Show a run's progress instead of transformers' bar, or table, and its line of thirty metrics."""
    trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
    trainer.remove_callback(PrinterCallback)
    if progress is not None:
        trainer.add_callback(progress)
