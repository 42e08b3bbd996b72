"""Which checkpoint of a run is whole, and whether it holds what a run needs to go on."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from mixdpo.common.errors import InputError

logger = logging.getLogger(__name__)

_WEIGHTS = (
    "*.safetensors",
    "*/*.safetensors",
    "pytorch_model*",
    "global_step*",
)  # whole, of adapters, FSDP, DeepSpeed


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of which every file can be read, or None."""
    return next((path for path, fault in _newest_first(folder) if fault is None), None)


def checkpoint_to_continue(folder: Path, log: bool = True) -> Path:
    """Return the newest complete checkpoint, and say (`log`) which newer ones are passed over and why.

    Raises:
        InputError: there is none.
    """
    faults: list[str] = []
    for path, fault in _newest_first(folder):
        if fault is None:
            if faults and log:
                logger.warning(f"{'; '.join(faults)}: the run goes on from {path.name}, the checkpoint before it")
            return path
        faults.append(f"{path.name} is broken ({fault})")
    raise InputError(
        "; ".join(["no complete checkpoint to continue from", *faults]),
        file=folder,
        hint="start the run anew, without --resume",
    )


def check_training_state(checkpoint: Path, deepspeed: bool) -> None:
    """Raise `InputError` unless a checkpoint holds the optimizer and the schedule, which would begin anew in silence.

    `deepspeed`: the run that continues is one of DeepSpeed, which keeps its optimizer in a folder of its own.
    """
    needed = {"optimizer": "global_step*"} if deepspeed else {"optimizer": "optimizer*", "scheduler": "scheduler.pt"}
    missing = [name for name, pattern in needed.items() if not any(checkpoint.glob(pattern))]
    if missing:
        raise InputError(
            f"the checkpoint holds no state of {' and '.join(missing)} that this run could go on with",
            file=checkpoint,
            hint="remove it to go on from one before it, or start the run anew; runs that are to be continued need "
            "save_only_model false and the same use of DeepSpeed",
        )


def _newest_first(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield every checkpoint, and what is wrong with it."""
    paths = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    numbers = {int(number): path for path in paths if (number := path.name.rpartition("-")[2]).isdecimal()}
    for step in sorted(numbers, reverse=True):
        yield numbers[step], _fault(numbers[step], step)


def _fault(checkpoint: Path, step: int) -> str | None:
    """Return what is wrong with a checkpoint: a file that is missing, torn or cannot be read.

    `trainer_state.json` is the last file of a checkpoint, so where it is missing, writing was cut short (full disk,
    interrupt, crash). Other files are torn where the machine lost its power, or a copy was cut short.
    """
    if not (checkpoint / "trainer_state.json").is_file():
        return "it was not written to its end"
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            content = _open(file)
        except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
            return f"{file.relative_to(checkpoint)} cannot be read: {error}"
        if file.name == "trainer_state.json" and file.parent == checkpoint and content.get("global_step") != step:
            return f"{file.name} is of another step"
        if file.name.endswith(".index.json"):
            absent = sorted(
                name for name in set(content.get("weight_map", {}).values()) if not (file.parent / name).exists()
            )
            if absent:
                return f"{absent[0]} is missing"
    if not any(any(checkpoint.glob(pattern)) for pattern in _WEIGHTS):
        return "it holds no weights"
    return None


def _open(file: Path) -> Any:
    """Open a file as what it is, which finds a torn one without reading tensors; return the content of JSON."""
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return None
    if file.suffix in (".pt", ".pth", ".bin"):  # torch writes ZIP archives, whose directory stands at the end
        with zipfile.ZipFile(file):
            return None
    with file.open("rb") as opened:
        opened.read(1)
    return None
