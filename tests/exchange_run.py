"""Started by torchrun in test_processes.py: ends while the threads that exchanged data still hold the data."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import distributed

from mixdpo.common.processes import processes


def threads_of_exchanges() -> list[int]:
    """The threads that gloo runs exchanges on, of all threads of this process."""
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [thread for thread in threads if "gloo_runloop" in Path(f"/proc/self/task/{thread}/comm").read_text()]


def main() -> None:
    state = processes(cpu=True)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3))
    model(torch.ones(3)).sum().backward()
    for thread in threads_of_exchanges():  # they run only when the main thread waits
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(thread, {min(os.sched_getaffinity(0))})
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for _ in range(20):
        tensor = torch.ones(3)
        distributed.all_reduce(tensor)
        del tensor
    state.destroy_process_group()


if __name__ == "__main__":
    main()
