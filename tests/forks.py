"""Processes of their own for what ends them."""

from __future__ import annotations

import os
import signal
import socket
import time
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


def run_group(work: Callable[[], object], processes: int, nodes: int = 1, seconds: float = 600) -> None:
    """Do some work on all processes of a group, as torchrun would start them; all must end well, and in time.

    They begin with what this process has imported, which takes a launcher's seconds each.
    """
    group = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes // nodes, "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": free_port()}  # fmt: skip
    running: dict[int, int] = {}
    for rank in range(processes):
        node, local = divmod(rank, processes // nodes)
        own = {**group, "RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": node} if processes > 1 else {}
        running[forked(work, **{name: str(value) for name, value in own.items()})] = rank
    end = time.monotonic() + seconds
    try:
        while running:
            assert time.monotonic() < end, f"ranks {sorted(running.values())} still run after {seconds} s"
            for process, rank in list(running.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    del running[process]
                    assert status == 0, f"rank {rank} ended with {os.waitstatus_to_exitcode(status)}"
            time.sleep(0.01)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class DieAt(TrainerCallback):
    """Sends this process a signal before a step."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)
