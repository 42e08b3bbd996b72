"""A small map file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nested import with_values

CONTENT: dict[str, Any] = {
    "name": "tiny",
    "pairs": 64,
    "batch_size": 32,
    "worlds": {
        "words": {
            "quality": 0.55,
            "tuning": {"learning_rate": [1.0e-3], "beta": [0.2], "seeds": [1002, 1005]},
            "cells": [{"hard_quality": [0.35, 0.55, 0.85]}],
        }
    },
    "arms": {
        "DPO": {"plan": {"name": "dpo"}},
        "SFT mixed in": {"plan": {"name": "mixdpo_unsorted"}},
        "dropped": {"plan": {"name": "mixdpo_unsorted", "hard_route": "drop", "refill": True}},
    },
    "contrasts": {"mixed in less dropped": {"arms": ["SFT mixed in"], "against": ["dropped"]}},
    "crossing": {"arm": "SFT mixed in", "against": "dropped"},
    "seeds": [3, 6, 9],
}


def map_file(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write the map into a folder."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(with_values(CONTENT, changes or {}), sort_keys=False))
    return path
