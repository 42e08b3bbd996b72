"""The findings of an audit as a table."""

from __future__ import annotations

from collections.abc import Sequence

from mixdpo.auditing.findings import Finding
from mixdpo.common.charts import percent
from mixdpo.common.tables import TextTable


def findings_table(title: str, findings: Sequence[Finding]) -> TextTable:
    """Return a row for each finding: its level, the pairs it affects, its share with an interval."""
    headings = ["finding", "level", "pairs", "estimate", "95 % interval"]
    return TextTable(title, headings, [_row(finding) for finding in findings], names=2)


def _row(finding: Finding) -> list[str]:
    value, low, high = (percent(finding.estimate[key]) for key in ("value", "low", "high"))
    return [finding.title, finding.level, f"{finding.pairs:,}", value, f"{low} to {high}"]
