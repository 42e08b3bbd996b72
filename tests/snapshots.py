"""What commands print at 80 columns, kept in files to be read."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).with_name("first_use") / "snapshots"


def check_snapshot(name: str, out: str) -> None:
    """Compare what was printed with a snapshot; UPDATE_SNAPSHOTS in the environment writes it anew."""
    tables = [line for line in out.splitlines() if "  " in line.strip()]
    assert max(map(len, tables), default=0) <= 80, "no table is wider"
    snapshot = FOLDER / f"{name}.txt"
    if "UPDATE_SNAPSHOTS" in os.environ:  # to be read before they are committed
        snapshot.write_text(out, encoding="utf-8")
    assert out == snapshot.read_text(encoding="utf-8")
