"""The one command that cleans the data: which findings it applies, in which order, what it leaves and what remains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.findings import Action, Finding
from mixdpo.common.charts import percent

_ORDER: Final[tuple[Action, ...]] = ("flip", "drop", "drop_repeats")
"""Labels are made right before pairs are dropped, and of repeated pairs the first is kept that is still there."""
ADVISED: Final = "advised"
"""Stands for all findings that a report advises to apply."""
_DONE: Final[dict[Action, str]] = {"flip": "flips", "drop": "drops", "drop_repeats": "drops"}


@dataclass(frozen=True, eq=False)
class Cleaning:
    """What becomes of N pairs.

    Attributes:
        is_dropped: bool, shape (N,).
        is_flipped: bool, shape (N,); none of these is dropped.
        finding: that decided on each pair, None for those that are kept as they are.
    """

    is_dropped: np.ndarray
    is_flipped: np.ndarray
    finding: list[str | None]

    def pairs_of(self, finding: str) -> int:
        """Return how many pairs a finding decided on."""
        return self.finding.count(finding)


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What one command does to the data.

    Attributes:
        command: the command.
        apply: the findings it applies, in the order in which they are applied.
        actions: what it does with how many pairs, by finding: `flip`, `drop` or `drop_repeats`, title and pairs.
        pairs: before.
        left: pairs after.
    """

    command: str
    apply: list[str]
    actions: list[tuple[Action, str, int]]
    pairs: int
    left: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def apply_findings(flags: Mapping[str, np.ndarray], apply: Sequence[str]) -> Cleaning:
    """Return what applying findings makes of the pairs, in whatever order they are named.

    Flips come first. Of pairs that repeat each other the first is kept that nothing else drops, one whose label was
    right before one that was flipped. Dropping wins over flipping.

    Args:
        flags: by finding, the group of each pair, -1 for none; int64 of shape (N,).
        apply: names of findings that `mixdpo clean` can deal with.
    """
    n = len(next(iter(flags.values())))
    is_dropped, is_flipped = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    finding: list[str | None] = [None] * n
    for name in in_order(apply):
        kind, group = FINDING_TYPES[name], flags[name]
        rows = np.flatnonzero((group >= 0) & ~is_dropped & ~(is_flipped & kind.is_mended_by_flip))
        if kind.action == "drop_repeats":
            rows = rows[np.argsort(is_flipped[rows], kind="stable")]
            first = np.unique(group[rows], return_index=True)[1]
            rows = np.delete(rows, first)
        for row in rows.tolist():
            finding[row] = name
        (is_flipped if kind.action == "flip" else is_dropped)[rows] = True
    return Cleaning(is_dropped=is_dropped, is_flipped=is_flipped & ~is_dropped, finding=finding)


def in_order(apply: Sequence[str]) -> list[str]:
    """Return names of findings in the order in which they are applied."""
    table = list(FINDING_TYPES)
    return sorted(set(apply), key=lambda name: (_ORDER.index(FINDING_TYPES[name].action or "drop"), table.index(name)))


def advised_repairs(
    findings: Sequence[Finding], flags: Mapping[str, np.ndarray], command: str
) -> tuple[list[Finding], Repairs | None]:
    """Return the findings, and what the one command does that deals with the advised ones; None without any.

    Findings that would together drop every pair are no longer advised, those with most pairs first.

    Args:
        findings: most important first.
        flags: by finding, the group of each pair, -1 for none; int64 of shape (N,).
        command: that cleans this data by this report.
    """
    advised = [finding for finding in findings if finding.advised]
    while advised and (cleaning := apply_findings(flags, [one.name for one in advised])).is_dropped.all():
        advised.remove(max(advised, key=lambda finding: finding.pairs))
    findings = [replace(finding, advised=finding in advised) for finding in findings]
    if not advised:
        return findings, None
    findings = [_with_advised(finding, command) for finding in findings]
    apply = in_order([finding.name for finding in advised])
    kinds = {name: FINDING_TYPES[name] for name in apply}
    return findings, Repairs(
        command=command,
        apply=apply,
        actions=[
            (kind.action, kind.title, pairs)
            for name, kind in kinds.items()
            if kind.action is not None and (pairs := cleaning.pairs_of(name))
        ],
        pairs=len(cleaning.is_dropped),
        left=int((~cleaning.is_dropped).sum()),
    )


def _with_advised(finding: Finding, command: str) -> Finding:
    """Return a finding whose own command applies what is advised, too: one after the other they would not add up."""
    if finding.advised or finding.action is None:
        return finding
    return replace(finding, command=f"{command} --apply {ADVISED},{finding.name}")


def repair_lines(repairs: Mapping[str, Any]) -> list[str]:
    """Return the command of `Repairs.to_dict` and what it does, for a terminal."""
    lines = [f"  {_DONE[action]} {counted_pairs(number)}: {title}" for action, title, number in repairs["actions"]]
    return [
        f"clean in one go: {repairs['command']}",
        *lines,
        f"  leaves {repairs['left']:,} of {counted_pairs(repairs['pairs'])}",
    ]


def counted_pairs(number: int) -> str:
    """Return a number of pairs in words."""
    return f"{number:,} pair{'s' * (number != 1)}"


def remaining_lines(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is left to decide of `Finding.to_dict`, and what deals with it, for a terminal."""
    lines = [f"  {one['title']} ({percent(one['estimate']['value'])}): {one['fix']}" for one in findings]
    return ["to decide:", *lines] if lines else []
