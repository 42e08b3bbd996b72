"""What every process of a group does for process_kinds.py: runs commands in turn and writes down how each ended."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import traceback
from collections.abc import Mapping, Sequence
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
        sharded = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_PARALLELISM_CONFIG"} & set(os.environ)
        if sharded and shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU
        original(self, *arguments, **settings)

    AcceleratorState.__init__ = patched


def run_deepspeed_on_cpus() -> None:
    """Have accelerate use DeepSpeed on CPU processes, over gloo, and without a kernel that it would compile first."""
    original = PartialState.__init__

    def patched(self: PartialState, *arguments: Any, **settings: Any) -> None:
        original(self, *arguments, **settings)
        deepspeed_is_asked = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        if deepspeed_is_asked and self.distributed_type == DistributedType.MULTI_CPU:
            import deepspeed

            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
            PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED

    PartialState.__init__ = patched


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


def first_part(run: Path, copy: Path) -> None:
    """Copy what there was of a run when it had written its first checkpoint."""
    first = min(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    copy.mkdir()
    for path in run.iterdir():
        if path == first or not (path.name.startswith("checkpoint-") or path.name == run_folder.MODEL_FOLDER):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)


def run_commands(commands: Sequence[Mapping[str, Any]]) -> None:
    """Run every command in the environment it names."""
    end_group, is_main = PartialState.destroy_process_group, os.environ.get("RANK", "0") == "0"
    PartialState.destroy_process_group = lambda self: None  # the next command needs it
    run_folder.save_training_figure = lambda metrics, folder: None  # takes longer than the run
    shard_on_cpus()
    run_deepspeed_on_cpus()
    launched = dict(os.environ)
    for command in commands:
        os.environ.clear()
        os.environ.update(launched | command["environment"])
        if is_main and command["begins_with"]:
            first_part(Path(command["begins_with"]), Path(command["output"]))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        status, printed = run(command["words"])
        if is_main:
            Path(command["end"]).write_text(json.dumps({"status": status, "printed": printed}))
    end_group(PartialState())
