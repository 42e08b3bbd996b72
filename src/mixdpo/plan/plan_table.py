"""What a plan does with its pairs, by route, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mixdpo.common.tables import TextTable, percent_text

_MARGINS: Final = {"margin_min": "margin from", "margin_mean": "mean", "margin_max": "to"}
_MEANS: Final = {"weight_mean": "weight", "label_probability_mean": "P label"}
"""Headings of what only some plans have."""


def route_table(title: str, summary: Sequence[Mapping[str, Any]]) -> TextTable:
    """Return a row for each route of `Plan.summary()`: pairs, share, margins, and means of what the plan has."""
    means = [name for name in _MEANS if any(name in record for record in summary)]
    rows = [
        [
            record["route"],
            f"{record['pairs']:,}",
            percent_text(record["share"]),
            *("-" if record[name] is None else f"{record[name]:.3g}" for name in _MARGINS),
            *(f"{record[name]:.3g}" for name in means),
        ]
        for record in summary
    ]
    headings = ["route", "pairs", "share", *_MARGINS.values(), *(_MEANS[name] for name in means)]
    return TextTable(title, headings, rows)
