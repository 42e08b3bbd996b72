"""Processes that a launcher started: how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.xdist_group("two processes")
@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="threads are held back as Linux does it")
def test_a_process_ends_after_its_last_exchange() -> None:
    """Also where the threads of the exchange are the last to be given a core."""
    script = Path(__file__).parents[1] / "exchange_run.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
