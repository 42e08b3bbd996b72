"""What became of every row that was read: kept, or dropped and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mixdpo.data.prompts import DOUBTS, REASONS

SHOWN_ROWS: Final = 5
"""How many rows are named per reason."""


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """One source. `read + added == kept + sum(dropped.values())` always holds.

    Attributes:
        source: the source as the user named it.
        read: rows in it.
        kept: rows that are valid pairs.
        used: pairs of it in the result, after its weight and caps.
        dropped: number of rows by reason.
        dropped_rows: the first few of them by reason, as `12`, or `file:12` if the source has several files.
        dropped_details: by reason, what it was in these rows, with the number of rows.
        added: pairs that rows of several answers made beyond one each.
        doubted: number of kept pairs by what is doubtful about them.
        doubted_rows: the first few of them, as `dropped_rows`.
        notes: how the source was read, where that was not plain: what was guessed, which layout it has.
        warnings: what may be lost, and what to do about it.
        score_columns: columns that ratings were read from.
        unread_columns: columns that nothing was read from.
        ties: kept pairs whose answers are scored equally; None without (common) scores.
        contradicted: pairs whose chosen answer is scored lower than the rejected one; None like `ties`.
        contradictions: what was done with those: keep, flip or drop.
    """

    source: str
    read: int
    kept: int
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    dropped_details: dict[str, dict[str, int]] = field(default_factory=dict)
    added: int = 0
    doubted: dict[str, int] = field(default_factory=dict)
    doubted_rows: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    score_columns: tuple[str, ...] = ()
    unread_columns: tuple[str, ...] = ()
    ties: int | None = None
    contradicted: int | None = None
    contradictions: str = "keep"

    def lines(self) -> list[str]:
        """Return the report for a person."""
        used = f", used {self.used:,}" if self.used != self.kept else ""
        lines = [f"{self.source}: read {self.read:,} rows, kept {self.kept:,} pairs{used}"]
        lines += [f"  {note}" for note in self.notes]
        for reason, count in sorted(self.dropped.items(), key=lambda item: -item[1]):
            details = self.dropped_details.get(reason, {})
            meaning = REASONS[reason] + "".join(f"; {detail}: {rows:,}" for detail, rows in details.items())
            lines.append(f"  dropped {count:,} {reason}: {meaning} ({_rows(count, self.dropped_rows[reason])})")
        for doubt, count in self.doubted.items():
            lines.append(f"  doubtful {count:,} {doubt}: {DOUBTS[doubt]} ({_rows(count, self.doubted_rows[doubt])})")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        if not self.score_columns:
            lines.append("  no scores")
        elif self.ties is None:
            lines.append(f"  scores in {', '.join(self.score_columns)} are left out: another source has none")
        else:
            done = {"keep": "kept", "flip": "flipped", "drop": "dropped"}[self.contradictions]
            contradicted = f"{self.contradicted:,} contradict the label" + (f" ({done})" if self.contradicted else "")
            lines.append(f"  scores from {', '.join(self.score_columns)}: {self.ties:,} ties, {contradicted}")
        if self.unread_columns:
            lines.append(f"  not read: {', '.join(self.unread_columns)}")
        return lines


def _rows(count: int, shown: Sequence[str]) -> str:
    return f"row {', '.join(shown)}{', ...' if count > len(shown) else ''}"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the rows of all sources.

    Attributes:
        sources: the report of each.
        pairs: number of pairs in the result.
    """

    sources: Sequence[SourceReport]
    pairs: int

    @property
    def read(self) -> int:
        """Rows in all sources."""
        return sum(source.read for source in self.sources)

    @property
    def kept(self) -> int:
        """Rows that are valid pairs."""
        return sum(source.kept for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped rows by reason."""
        total: dict[str, int] = {}
        for source in self.sources:
            for reason, count in source.dropped.items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def _calls_for_attention(self) -> bool:
        return bool(self.dropped) or any(source.doubted or source.warnings for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        totals = {"pairs": self.pairs, "read": self.read, "kept": self.kept, "dropped": self.dropped}
        return {**totals, "sources": [asdict(source) for source in self.sources]}

    def log(self, logger: logging.Logger) -> None:
        """Log the report line by line, as a warning if something was dropped, is doubtful or may be lost."""
        level = logging.WARNING if self._calls_for_attention else logging.INFO
        for line in self.lines():
            logger.log(level, line)

    def lines(self) -> list[str]:
        """Return the report for a person, one line per fact."""
        lines = [line for source in self.sources for line in source.lines()]
        if len(self.sources) > 1 or self.pairs != sum(source.used for source in self.sources):
            lines.append(f"together: {self.pairs:,} pairs")
        return lines
