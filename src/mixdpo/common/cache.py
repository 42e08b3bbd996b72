"""What is cached between runs: how much it is, what is in use, and what goes first when it is too much.

An entry is a file or a folder that can be made again. A process that uses one holds a shared lock on it, which the
operating system gives back when the process ends in whatever way; pruning takes only entries that nobody holds.
Replies of endpoints and answers of models are shown and never pruned: they were paid for or took hours.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mixdpo.common.errors import InputError
from mixdpo.common.files import cache_folder

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

DEFAULT_LIMIT: Final = "50GB"
LIMIT_VARIABLE: Final = "MIXDPO_CACHE_LIMIT"

_PRUNED: Final = ("reference", "reward", "ches", "validation_loss")
"""Folders whose entries are pruned, beside `data`."""
_OF_DATA: Final = ("pairs", "tokens", "mismatched")
"""Kinds of files in `data`, by the beginning of their names; its folders are rows as they were read."""
_ABANDONED: Final = 86_400.0
"""Seconds after which a file that is being written no longer is: its process was killed."""
_HELD_AT_ONCE: Final = 256
_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_held: OrderedDict[Path, int] = OrderedDict()


@dataclass(frozen=True)
class CacheEntry:
    """What is cached under one name: bytes, files, and when it was last used, in seconds since the epoch."""

    kind: str
    path: Path
    size: int
    files: int
    used: float
    prunable: bool


def hold(path: Path) -> None:
    """Note that an entry, if it is there, is used now, and keep it from being pruned while this process runs.

    Of very many entries only the last ones are kept: what is open stays readable when it is deleted.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # it is just being pruned, or the file system has no locks
            os.close(descriptor)
            return
    with suppress(OSError):  # a cache of somebody else's may be read all the same
        os.utime(path)
    if (before := _held.pop(path, None)) is not None:
        os.close(before)
    _held[path] = descriptor
    if len(_held) > _HELD_AT_ONCE:
        os.close(_held.popitem(last=False)[1])


def cache_entries() -> list[CacheEntry]:
    """Return all that is cached, what was not used for the longest time first."""
    return sorted(_entries(cache_folder()), key=lambda entry: entry.used)


def prune(limit: int) -> list[CacheEntry]:
    """Delete entries until those that can be pruned are `limit` bytes, the least recently used first; return them."""
    entries = [entry for entry in cache_entries() if entry.prunable]
    over = sum(entry.size for entry in entries) - limit
    deleted = []
    for entry in entries:
        if over <= 0:
            break
        if _delete(entry.path):
            deleted.append(entry)
            over -= entry.size
    return deleted


def cache_limit() -> int | None:
    """Return the bytes that `$MIXDPO_CACHE_LIMIT` allows, 50 GB by default; None where it says `none`.

    Raises:
        InputError: it is no size.
    """
    given = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    return None if given.lower() == "none" else bytes_of(given, LIMIT_VARIABLE)


def bytes_of(text: str, name: str) -> int:
    """Return the bytes of a size such as 20GB or 500MB; `InputError` calls it `name` if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if match is None:
        raise InputError(f"{name} is {text!r}", hint="write a size such as 20GB or 500MB")
    unit = match[2] if match[2].endswith("B") or not match[2] else f"{match[2]}B"
    return round(float(match[1]) * _UNITS.get(unit, 1))


def shown_size(size: int) -> str:
    """Return bytes as people read them."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if size >= _UNITS[unit]), "")
    return f"{size / _UNITS[unit]:.1f} {unit}" if unit else f"{size} B"


def _entries(root: Path) -> Iterator[CacheEntry]:
    for kind in _in(root):
        if kind.name == "data" or kind.name in _PRUNED:
            for path in _in(kind):
                if path.suffix != ".lock":
                    name = _kind_in_data(path) if kind.name == "data" else kind.name
                    unfinished = path.name.startswith((".", "tmp"))
                    yield _entry("unfinished" if unfinished else name, path, True, _ABANDONED if unfinished else 0)
        else:
            yield _entry(kind.name, kind, False, 0)


def _kind_in_data(path: Path) -> str:
    return next((kind for kind in _OF_DATA if path.name.startswith(f"{kind}-")), "rows")


def _entry(kind: str, path: Path, prunable: bool, idle: float) -> CacheEntry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    states = [state for file in files if (state := _state(file))]
    used = max((state.st_mtime for state in (*states, _state(path)) if state), default=0.0)
    size = sum(state.st_size for state in states)
    return CacheEntry(kind, path, size, len(files), used, prunable and time.time() - used >= idle)


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # another process has just deleted it
        return None


def _in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _delete(path: Path) -> bool:
    """Delete an entry that no process holds, at once for all others; whether it was deleted."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_file():
            path.unlink()
        else:
            aside = path.rename(path.with_name(f".{path.name}.{os.getpid()}"))
            shutil.rmtree(aside, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
