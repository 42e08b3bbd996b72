"""What a disk refuses, in one line, whichever library met with it and however it says so."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mixdpo.common.errors import RunError
from mixdpo.common.files import cache_folder

_OF_ROOM: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of disk space is used up",
    errno.EFBIG: "a file may not be as large there",
}
_OF_PLACE: Final = {
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links go round in circles",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
_OF_HARDWARE: Final = {errno.EIO: "the disk cannot be read or written", errno.ESTALE: "the network's disk went away"}
_MEANING: Final = {**_OF_ROOM, **_OF_PLACE, **_OF_HARDWARE}

_NUMBER: Final = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")
"""As the libraries in Rust (safetensors, polars) and in C++ (pyarrow) write it, whose errors have no number."""
_PATH: Final = re.compile(r"(?:at path |file )[\"'](/[^\"']+)[\"']|\(os error \d+\): (/.+)")
_CUT_SHORT: Final = ("database or disk is full", "] . unexpected pos ", "file write failed")
"""SQLite's words, and PyTorch's for a file that could not be written to its end, whatever the reason."""


@dataclass(frozen=True)
class DiskFault:
    """What the disk refused: a number of `errno`, and the place where it is known."""

    number: int
    place: str | None

    @property
    def is_of_room(self) -> bool:
        """Whether room would mend it, and not another place."""
        return self.number not in _OF_PLACE

    def __str__(self) -> str:
        return f"{self.place}: {_MEANING[self.number]}" if self.place else _MEANING[self.number]


def disk_fault(error: BaseException) -> DiskFault | None:
    """Return what a disk refused, read from an error or what it was raised from; None for any other error."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(text)):
        number = int(found[1] or found[2])
    if number is None and any(words in text for words in _CUT_SHORT):
        number = errno.ENOSPC
    if number is None:
        number = next((one for one in _MEANING if os.strerror(one) in text), None)
    if number not in _MEANING:
        return disk_fault(error.__cause__) if error.__cause__ is not None else None
    path = _PATH.search(text)
    named = str(error.filename) if isinstance(error, OSError) and error.filename else None
    return DiskFault(number, named or (path and (path[1] or path[2])) or None)


@contextmanager
def cache_explained() -> Iterator[None]:
    """Name the cache where writing to it fails inside the block, and not the data that was read.

    Raises:
        RunError: it is full, or cannot be written.
    """
    try:
        yield
    except Exception as error:
        fault = disk_fault(error)
        in_cache = fault is not None and fault.place is not None and Path(fault.place).is_relative_to(cache_folder())
        if fault is None or not (in_cache or fault.number in _OF_ROOM):
            raise
        raise RunError(
            f"{cache_folder()}: the cache cannot be written, {_MEANING[fault.number]}; make room there, for example "
            "with mixdpo cache --prune, or set MIXDPO_CACHE to another folder"
        ) from error
