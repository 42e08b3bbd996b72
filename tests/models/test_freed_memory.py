"""What a step on a CPU frees serves the next one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from mixdpo.models.freed_memory import keep_freed_memory
import numpy as np

kept = keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(4_000_000) for _ in range(4)]  # 32 MB each
    del arrays
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("told", "kept"), [({}, "True"), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, "False")])
def test_the_second_step_asks_the_system_for_nothing(told: dict[str, str], kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**environment, **told}, capture_output=True, text=True, check=True
    )
    answer, faults = done.stdout.split()
    assert answer == kept
    assert (int(faults) < 50) == (kept == "True")
