"""Which checkpoint of a run is whole, and whether it holds what a run needs to go on."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
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
_KEPT_STATE = {
    DistributedType.DEEPSPEED: ("global_step*",),
    DistributedType.FSDP: ("optimizer.bin", "optimizer_*"),
    DistributedType.NO: ("optimizer.pt",),  # of one process, or of several with whole weights
}
_LAST_FILE = "trainer_state.json"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of which every file can be opened, or None."""
    return next((path for path, fault in _newest_first(folder) if fault is None), None)


def checkpoint_to_continue(folder: Path, log: bool = True) -> Path:
    """Return the newest complete checkpoint, and say (`log`) which newer ones are passed over and why.

    What torch wrote, so the optimizer's state, is compared with its checksums; that takes as long as to load it.
    Safetensors has none, and to make one would take a twentieth of the time that a checkpoint is written in.

    Raises:
        InputError: there is none.
    """
    faults: list[str] = []
    for path, fault in _newest_first(folder, reads_whole=True):
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


def check_training_state(checkpoint: Path, kind: DistributedType, processes: int) -> None:
    """Raise `InputError` unless a run of `kind` on so many processes can go on with a checkpoint's optimizer.

    Without it, optimizer and schedule would begin anew in silence; and that of another kind of run cannot be read.
    """
    kind = kind if kind in _KEPT_STATE else DistributedType.NO
    held = [one for one, patterns in _KEPT_STATE.items() if any(any(checkpoint.glob(each)) for each in patterns)]
    if held and kind not in held:
        raise InputError(
            f"the checkpoint is of a run {_called(held[0])}, and this one runs {_called(kind)}",
            file=checkpoint,
            hint="continue it with the launch file it was started with, or merge it into a model and start from that",
        )
    needs_schedule = kind != DistributedType.DEEPSPEED  # which keeps it with its optimizer
    has_schedule = (checkpoint / "scheduler.pt").exists() or not needs_schedule
    missing = [name for name, there in (("optimizer", held), ("scheduler", has_schedule)) if not there]
    if missing:
        raise InputError(
            f"the checkpoint holds no state of {' and '.join(missing)}",
            file=checkpoint,
            hint="remove it to go on from one before it, or start the run anew; runs that are to be continued need "
            "save_only_model false",
        )
    parts = len(list(checkpoint.glob("global_step*/*_optim_states.pt")))
    if kind == DistributedType.DEEPSPEED and parts not in (0, processes):
        raise InputError(
            f"DeepSpeed cut the checkpoint for {parts} processes, and this run has {processes}",
            file=checkpoint,
            hint=f"continue it on {parts} processes",
        )


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint after so many steps."""
    return run / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def mark_incomplete(checkpoint: Path) -> None:
    """Have a checkpoint, if it is there, count as one that was not written to its end, until it is written anew."""
    (checkpoint / _LAST_FILE).unlink(missing_ok=True)


def delete_oldest(run: Path, step: int, limit: int | None, best: str | None) -> None:
    """Delete a run's checkpoints until `limit` are left (None: delete none), but not that of `step`, nor the best.

    By steps, for times of files turn round with a clock that is set back. Those of later steps go first: they are
    left from before the run went on from an earlier one.
    """
    if not limit:
        return
    there = _by_step(run)
    spare = [number for number, path in there.items() if number != step and path.name != Path(best or "").name]
    spare.sort(key=lambda number: (number < step, number))
    over = len(there) - max(limit, len(there) - len(spare))
    for number in spare[: max(over, 0)]:
        mark_incomplete(there[number])
        shutil.rmtree(there[number], ignore_errors=True)


def _called(kind: DistributedType) -> str:
    return {DistributedType.FSDP: "under FSDP", DistributedType.DEEPSPEED: "under DeepSpeed"}.get(
        kind, "with whole weights on each process"
    )


def _by_step(run: Path) -> dict[int, Path]:
    paths = run.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return {int(number): path for path in paths if (number := path.name.rpartition("-")[2]).isdecimal()}


def _newest_first(folder: Path, reads_whole: bool = False) -> Iterator[tuple[Path, str | None]]:
    """Yield every checkpoint, and what is wrong with it."""
    for step, path in sorted(_by_step(folder).items(), reverse=True):
        yield path, _fault(path, step, reads_whole)


def _fault(checkpoint: Path, step: int, reads_whole: bool) -> str | None:
    """Return what is wrong with a checkpoint: a file that is missing, torn or cannot be read.

    `_LAST_FILE` is the last file of a checkpoint, so where it is missing, writing was cut short (full disk,
    interrupt, crash). Other files are torn where the machine lost its power, or a copy was cut short.
    """
    if not (checkpoint / _LAST_FILE).is_file():
        return "it was not written to its end"
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            content = _open(file, reads_whole)
        except (OSError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
            return f"{file.relative_to(checkpoint)} cannot be read: {error}"
        if file == checkpoint / _LAST_FILE and content.get("global_step") != step:
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


def _open(file: Path, reads_whole: bool) -> Any:
    """Open a file as what it is, which finds a torn one without reading tensors; return the content of JSON.

    `reads_whole`: read tensors too where the file has checksums of them, which finds one that was altered.
    """
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return None
    if file.suffix in (".pt", ".pth", ".bin"):  # torch writes ZIP archives, whose directory stands at the end
        with zipfile.ZipFile(file) as archive:
            if reads_whole and archive.testzip() is not None:
                raise ValueError("its content does not have its checksum")
            return None
    with file.open("rb") as opened:
        opened.read(1)
    return None
