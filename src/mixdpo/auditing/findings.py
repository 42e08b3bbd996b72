"""Findings: what in the data needs a decision, how sure that is, and the command or recipe line that deals with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from mixdpo.auditing.statistics import Estimate, share

Action = Literal["drop", "drop_repeats", "flip"]
Level = Literal["harmful", "doubtful", "notable"]
LEVELS: Final[tuple[Level, ...]] = ("harmful", "doubtful", "notable")

MOST_FINDINGS: Final = 10
"""Pieces of advice; the small findings together are one."""
RARE: Final = 0.01
"""Share under which ties and cuts are no finding, and rows that can be cleaned are small findings."""
WIDESPREAD: Final = 0.1
"""Share from which a doubtful fault is harmful, and from which dropping rows is a decision for a person."""


@dataclass(frozen=True, kw_only=True)
class FindingType:
    """What flagged pairs have in common, and what deals with them.

    Attributes:
        title: what it is, for a heading.
        level: what few such pairs do to training; a doubtful fault is harmful where it is `WIDESPREAD`.
        meaning: why it matters, one sentence.
        action: what `mixdpo clean` does with its rows; None if it does nothing. `drop_repeats` keeps the first pair
            of each group.
        is_advised: whether that is right whatever share of the pairs has it. Else it is for small findings, and for
            harmful ones that are not `WIDESPREAD`.
        line: what else deals with it, with recipe lines in backticks.
        is_mended_by_flip: whether pairs whose answers another finding exchanges no longer have it.
        together: whether the rows of a group say more side by side than alone.
        ranked: whether groups are numbered from the one that is most surely a fault.
        least_share: share of the pairs that it must clearly exceed, or it is no finding.
        is_fault: whether a few such pairs can be taken away by the way.
    """

    title: str
    level: Level
    meaning: str
    action: Action | None = None
    is_advised: bool = False
    line: str | None = None
    is_mended_by_flip: bool = False
    together: bool = True
    ranked: bool = False
    least_share: float | None = None
    is_fault: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Flagged:
    """The pairs that a check flags.

    Attributes:
        group: the group of each pair, -1 for none; int64 of shape (N,).
        looked_at: how many pairs could have been flagged; None for all.
        measure: what the flagged pairs are a share of.
        line: instead of the type's, where that depends on the data.
    """

    group: np.ndarray
    looked_at: int | None = None
    measure: str = "of all pairs"
    line: str | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that needs a decision.

    Attributes:
        name: of a type of finding, or `length_bias`, `style`, `label_noise`, `dropped`, `ratings_spike`.
        pairs: pairs it affects.
        estimate: its number with interval and sample size; what it is of is in `measure`.
        line: what deals with it beside the command, with recipe lines in backticks; None if nothing does.
        command: what cleans the data of it alone, None if nothing does.
        action: what `mixdpo clean` does, None if nothing.
        small: whether it affects fewer than `RARE` of the pairs, spoils nothing else, and `mixdpo clean` can deal with
            it.
        advised: whether it is part of the one command that cleans the data.
    """

    name: str
    level: Level
    title: str
    meaning: str
    measure: str
    estimate: Estimate
    pairs: int
    line: str | None = None
    command: str | None = None
    action: Action | None = None
    small: bool = False
    advised: bool = False

    @property
    def fix(self) -> str:
        """The recipe line, the advice or the command that deals with it, in plain words."""
        return ", or ".join(part.replace("`", "") for part in (self.line, self.command) if part)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {**asdict(self), "fix": self.fix}


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """What a check found.

    Attributes:
        figures: for the page and `report.json`, JSON-ready; None where the data or the settings have nothing for it.
        flagged: by type of finding.
        findings: about the data as a whole; None for those that there is no cause for.
        notes: what to add to the example of a row.
    """

    figures: dict[str, Any] | None
    flagged: Mapping[str, Flagged] = field(default_factory=dict)
    findings: Sequence[Finding | None] = ()
    notes: Mapping[int, str] = field(default_factory=dict)


def each_alone(mask: np.ndarray) -> Flagged:
    """Flag the pairs of a mask, each as a group of its own."""
    return Flagged(group=np.where(mask, np.arange(len(mask)), -1))


def flagged_finding(name: str, kind: FindingType, flagged: Flagged, clean: str) -> Finding | None:
    """Return the finding of flagged pairs, None where they are none or too few.

    Args:
        name: of the type.
        kind: the type.
        flagged: the pairs.
        clean: the command that cleans this data by this report, to which the finding is added.
    """
    pairs, n = int((flagged.group >= 0).sum()), len(flagged.group)
    looked_at = n if flagged.looked_at is None else flagged.looked_at
    estimate = share(pairs, looked_at)
    if pairs == 0 or (kind.least_share is not None and (estimate["low"] or 0) <= kind.least_share):
        return None
    # Dropping every pair leaves nothing, and `mixdpo clean` refuses it.
    action = None if kind.action == "drop" and pairs == n else kind.action
    command = f"{clean} --apply {name}" if action else None
    line = flagged.line or kind.line
    if line is None and command is None:
        line = "fix the source: all pairs are affected, and without them nothing would be left"
    small = action is not None and kind.is_fault and pairs < RARE * looked_at
    is_widespread = pairs >= WIDESPREAD * looked_at
    is_repair = kind.is_advised or small or (kind.level == "harmful" and not is_widespread)
    return Finding(
        name=name,
        level="harmful" if is_widespread and kind.is_fault and kind.level == "doubtful" else kind.level,
        title=kind.title,
        meaning=kind.meaning,
        measure=flagged.measure,
        estimate=estimate,
        pairs=pairs,
        line=line,
        command=command,
        action=action,
        small=small,
        advised=action is not None and is_repair,
    )


def most_important(findings: Sequence[Finding]) -> list[Finding]:
    """Return the most harmful and most frequent first, the small ones last; `MOST_FINDINGS`, these counted as one."""
    ranked = sorted(findings, key=lambda finding: (LEVELS.index(finding.level), -finding.pairs))
    small = [finding for finding in ranked if finding.small]
    return [finding for finding in ranked if not finding.small][: MOST_FINDINGS - bool(small)] + small
