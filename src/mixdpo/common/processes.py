"""The processes that torchrun or `accelerate launch` started a command on."""

from __future__ import annotations

import atexit
import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def processes(cpu: bool = False) -> PartialState:
    """Return the group of this command's processes, which the first call joins; `cpu`: even if there is a GPU.

    Told to look for a GPU where there is none, accelerate takes every process for the only one.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=cpu or not torch.accelerator.is_available())
    if state.num_processes > 1:
        _end_a_moment_after_the_last_exchange()
    return state


@cache
def _end_a_moment_after_the_last_exchange() -> None:
    """Leave gloo's threads, which outlive the group where DDP was used, the time to let go of the last tensors.

    They do so after the exchange has returned. A thread that needs the interpreter for it while that ends aborts the
    process ("terminate called without an active exception", pytorch/pytorch#179291).
    """
    atexit.register(time.sleep, 0.1)  # seconds


def started_processes() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many were started, without joining them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def work_alone() -> None:
    """Have this process not wait for the others that were started with it, which have nothing to do."""
    for name in _OF_A_LAUNCHER:
        os.environ.pop(name, None)
