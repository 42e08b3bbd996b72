"""The one command: what it applies and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.findings import Finding, Flagged, flagged_finding
from mixdpo.auditing.next_steps import next_steps
from mixdpo.auditing.page_rows import longest_that_fits
from mixdpo.auditing.repairs import advised_repairs, apply_findings
from mixdpo.auditing.statistics import short_between


def groups(n: int, **rows: list[list[int]]) -> dict[str, np.ndarray]:
    """Flags of n pairs by finding, from its groups of rows."""
    flags = {name: np.full(n, -1) for name in rows}
    for name, members in rows.items():
        for group, own in enumerate(members):
            flags[name][own] = group
    return flags


def test_labels_are_flipped_before_repeats_are_dropped() -> None:
    flags = groups(
        6, duplicates=[[0, 1, 2], [3, 4]], contradicted=[[0], [3], [4]], special=[[1]], mislabelled=[[3], [5]]
    )
    cleaning = apply_findings(flags, ["duplicates", "special", "mislabelled", "contradicted"])
    assert cleaning.finding == ["duplicates", "special", None, "contradicted", "duplicates", "mislabelled"]
    assert np.flatnonzero(cleaning.is_dropped).tolist() == [0, 1, 4, 5], "the label of pair 2 was right all along"
    assert np.flatnonzero(cleaning.is_flipped).tolist() == [3], "a label that is made right is contradicted no more"
    again = apply_findings(flags, ["contradicted", "mislabelled", "special", "duplicates"])
    assert again.finding == cleaning.finding, "in whatever order they are named"


def found(name: str, pairs: int, n: int = 1000) -> Finding:
    finding = flagged_finding(name, FINDING_TYPES[name], Flagged(group=np.where(np.arange(n) < pairs, 0, -1)), "clean")
    assert finding is not None
    return finding


@pytest.mark.parametrize(
    ("name", "pairs", "level", "advised"),
    [
        ("duplicates", 700, "harmful", True),
        ("duplicates", 50, "doubtful", True),
        ("special", 60, "harmful", True),
        ("special", 300, "harmful", False),
        ("near_answers", 5, "doubtful", True),
        ("near_answers", 50, "doubtful", False),
        ("near_answers", 300, "harmful", False),
        ("ties", 300, "notable", False),
        ("leaked", 3, "harmful", True),
    ],
)
def test_levels_and_advice_go_by_what_a_finding_does_to_training(name, pairs, level, advised) -> None:
    finding = found(name, pairs)
    assert (finding.level, finding.advised) == (level, advised)


def test_nothing_is_advised_that_would_leave_nothing() -> None:
    flags = groups(10, special=[[0]], opposite=[[0, 1, 2, 3, 4, 5]], leaked=[[6, 7, 8, 9]])
    findings = [found(name, int((group >= 0).sum()), 10) for name, group in flags.items()]
    left, repairs = advised_repairs(findings, flags, "mixdpo clean DATA")
    assert repairs is not None
    assert repairs.left == 6
    assert {finding.name for finding in left if finding.advised} == {*repairs.apply} == {"leaked"}
    commands = {finding.name: finding.command for finding in left}
    assert commands["opposite"] == "mixdpo clean DATA --apply advised,opposite", "together with what is advised"
    assert commands["leaked"] == "clean --apply leaked"


def test_the_next_steps_go_on_from_the_cleaned_data() -> None:
    flags = groups(10, duplicates=[[0, 1]])
    _, repairs = advised_repairs([found("duplicates", 2, 10)], flags, "mixdpo clean DATA")
    parts = [{"route": route} for route in ("smoothed", "preference")]
    steps = next_steps("DATA", repairs, "judge", {"problem": None, "parts": parts})
    assert [step.command for step in steps] == [
        "mixdpo clean DATA",
        "mixdpo plan cleaned.parquet --plan advised --plan.metric judge",
        "mixdpo train cleaned.parquet --plan advised --plan.metric judge --train.label_smoothing per_pair "
        "--model MODEL --output RUN",
    ]
    assert [step.command for step in next_steps("DATA", None, None, None)] == [
        "mixdpo plan DATA --plan dpo",
        "mixdpo train DATA --plan dpo --model MODEL --output RUN",
    ]


@pytest.mark.parametrize(
    ("low", "high", "short"),
    [(0, 5.219 - 5, 0.21), (0.2, 0.25, 0.25), (5.41, 5.437, 5.43), (-np.inf, -23.94, -24)],
)
def test_a_number_to_copy_parts_the_same_values(low, high, short) -> None:
    assert short_between(low, high) == short
    assert low < short <= high


def test_texts_are_cut_so_far_that_they_fit() -> None:
    lengths = np.array([3, 10, 50, 50])
    assert longest_that_fits(lengths, 113) is None
    for most in (20, 60, 112):
        cut = longest_that_fits(lengths, most)
        assert np.minimum(lengths, cut).sum() <= most < np.minimum(lengths, cut + 1).sum()
