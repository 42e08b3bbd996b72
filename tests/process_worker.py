"""Started by process_kinds.py on every process of a group: runs commands in turn and writes down how each ended."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from mixdpo.cli.main import main as mixdpo
from mixdpo.training import run_folder


def shard_on_cpus() -> None:
    """Have accelerate shard on CPU processes too; it does so on accelerators alone, though torch shards on both."""
    original = AcceleratorState.__init__

    def patched(self: AcceleratorState, *arguments: Any, **settings: Any) -> None:
        shared = PartialState._shared_state
        if shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU
        original(self, *arguments, **settings)

    AcceleratorState.__init__ = patched


def run(words: list[str]) -> tuple[int, str]:
    """Run a command and return its exit status, and what it printed to standard error."""
    printed = io.StringIO()
    logging.getLogger().handlers.clear()  # each command makes its own, of the standard error of its time
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = mixdpo(words)
        except Exception:
            traceback.print_exc()
            status = 1
    return status, printed.getvalue()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    end_group = PartialState.destroy_process_group
    PartialState.destroy_process_group = lambda self: None  # the next command needs it
    run_folder.save_training_figure = lambda metrics, folder: None  # takes longer than the run
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    for name, words in json.loads((folder / "commands.json").read_text()).items():
        status, printed = run(words)
        if os.environ.get("RANK", "0") == "0":
            (folder / f"{name}.json").write_text(json.dumps({"status": status, "printed": printed}))
    end_group(PartialState())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
