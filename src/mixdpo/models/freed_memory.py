"""Memory that a step on a CPU frees and the next one asks for again."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 2**31 - 1  # bytes: mallopt takes a C int


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next allocation of this process; return whether it does.

    glibc gives large blocks back to the system when they are freed. A training step frees and asks for the same
    gigabytes again and again, and the system clears every page anew. Other C libraries are left as they are, and so
    is a glibc that the environment tells something else.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30) and mallopt(_TRIM_THRESHOLD, _LARGEST))
