"""Processes of their own for what ends them."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

import torch
from accelerate.state import AcceleratorState
from transformers import TrainerCallback


def forked(work: Callable[[], object], **environment: str) -> int:
    """Start a process of its own for some work, and return its id."""
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        torch.set_num_threads(1)  # those of the parent are not there
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ.update(environment)
        work()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class DieAt(TrainerCallback):
    """Sends this process a signal before a step."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)
