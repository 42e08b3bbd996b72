"""Published data that are not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def published(name: str) -> Path:
    """A folder of the shared data; the test is skipped where they are not."""
    root = Path(os.environ.get("MIXDPO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no {root / name}: set MIXDPO_SHARED_DATA to the folder that holds {name}")
    return root / name
