"""One run at a time in a folder: two would write over each other's checkpoints and mix their metrics."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mixdpo.common.errors import InputError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


@contextmanager
def sole_run(folder: Path, is_main: bool) -> Iterator[None]:
    """Hold the folder of a run on its main process; the same process may do so again within.

    The lock is the operating system's, which ends with the process, also when it is killed.

    Raises:
        InputError: another process holds the folder.
    """
    if not is_main:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            "another run is training in this folder",
            file=folder,
            hint="wait until it has ended, or choose another output folder",
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        logger.warning(f"{folder}: the file system has no locks; a second run in this folder would not be noticed")
    try:
        yield
    finally:
        lock.release()


def check_no_other_run(folder: Path, is_main: bool) -> None:
    """Raise `InputError` if another process holds the folder; writes nothing."""
    if (folder / LOCK_FILE).exists():
        with sole_run(folder, is_main):
            pass
