"""A rule of advice that no map changes."""

from __future__ import annotations

import pytest

from mixdpo.plan.rule_table import rule_of


def ship(monkeypatch: pytest.MonkeyPatch, sft: float, smoothed: float, drop: float = 0, last: float = 0) -> None:
    """Ship a rule of one world, in which SFT mixed in gains `sft` for every unit of surplus."""
    cells = [
        {
            "world": "one", "hard_share": 0.3, "hard_quality": surplus, "hard_source": "writers", "epochs": 1,
            "learning_rate": None, "right": 0.5, "surplus": surplus,
            "effects": {
                treatment: [gain - 1, gain - 2, gain]
                for treatment, gain in (
                    ("drop", drop), ("smoothed", smoothed), ("sft", sft * surplus), ("sft_last", last)
                )
            },
        }
        for surplus in (-1, 1)
    ]  # fmt: skip
    rule = rule_of({"cells": cells, "wrong_labels": [], "map": {}})
    monkeypatch.setattr("mixdpo.plan.advised.shipped_rule", lambda: rule)
