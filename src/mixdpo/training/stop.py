"""A run that is told to end while it trains saves a checkpoint first, after a step on which all processes agree.

A signal may reach one process only, or all of them in different steps. So whether any has been told to end travels
with a sum that all processes make at the beginning of every step, and they read it at the end of that step. On a GPU
nothing waits for it: the device begins a step before the last of its kernels is queued.
"""

from __future__ import annotations

import logging
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixdpo.common.signals import Terminated, taking_signals
from mixdpo.training.checkpoints import checkpoint_path

logger = logging.getLogger(__name__)

_SAME_REQUEST: Final = 5.0
"""Seconds in which SIGTERM comes twice for one reason: schedulers send it to all processes, and so do launchers."""


class StopCallback(TrainerCallback):
    """Takes the signals from the first step to the last, has a checkpoint saved for them, and ends the program.

    At the last step of a run nothing is to be saved beside what is saved anyway, and the run goes on to its end.

    Raises:
        Terminated: after the checkpoint is whole on all processes; at once for a second SIGTERM.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._signals = ExitStack()
        self._told: dict[int, float] = {}  # seconds of a clock, by signal
        self._any_told: Tensor | None = None  # of the step under way, on the host once `_copied` has happened
        self._copied: torch.Event | None = None
        self._ends = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the signals."""
        self._told.clear()
        self._signals.enter_context(taking_signals(self._note))

    def release(self) -> None:
        """Give the signals back, however training ended."""
        self._signals.close()

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM and now - self._told.setdefault(number, now) > _SAME_REQUEST:
            raise Terminated
        self._told.setdefault(number, now)

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Return the sum of a number (0-d) over processes, and learn beside it whether any was told to end."""
        if self._accelerator.num_processes == 1:
            return value
        told = torch.full_like(value, bool(self._told))
        total, any_told = self._accelerator.reduce(torch.stack([value, told]), reduction="sum").unbind()
        self._any_told = any_told.to("cpu", non_blocking=True)
        if value.device.type != "cpu":
            self._copied = torch.accelerator.current_stream().record_event()
        return total

    def _all_told(self) -> bool:
        """Whether all processes end after this step; the same on every process."""
        if self._any_told is None:
            return bool(self._told)
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._any_told)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Have a checkpoint saved. An evaluation due at this step is left out: time is short."""
        self._ends = state.global_step < state.max_steps and self._all_told()
        if self._ends:
            control.should_save = control.should_log = True
            control.should_evaluate = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """End the program, once the checkpoint is whole."""
        if not self._ends:
            return
        if state.is_world_process_zero:
            names = " and ".join(signal.Signals(number).name for number in self._told) or "a signal to another process"
            logger.warning(
                f"{names}: {checkpoint_path(Path(args.output_dir or '.'), state.global_step)} of {state.max_steps} "
                "steps is saved; "
                + (
                    "it cannot be continued, for save_only_model is true"
                    if args.save_only_model
                    else "continue it with --resume, in Python with train(resume_from_checkpoint=True)"
                )
            )
        self._accelerator.wait_for_everyone()  # a launcher ends the others when the first one has ended
        raise Terminated
