"""The page of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixdpo.common import charts
from mixdpo.common.pages import render_page


def audit_page(report: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Return the page of a report.

    Args:
        report: `AuditReport.to_dict()`.
        examples: pairs to show; their texts reach the page as data and are only ever set as text.
        titles: by finding, what to call it.
    """
    return render_page(
        "mixdpo.auditing",
        "audit",
        {"examples": examples, "titles": titles, "plan": report["plan"]},
        {"report": report, "titles": titles},
        {
            "histogram": charts.histogram,
            "bars": charts.bars,
            "heat_map": charts.heat_map,
            "scatter": charts.scatter,
        },
    )
