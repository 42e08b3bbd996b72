"""What a study file would see, for several numbers of pairs and prompts: a section of the report of studies.

    python scripts/study_power.py studies/ties.yaml studies/results/core ...

What it rests on are the variances, the gain and the pace of the results that are named.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mixdpo.common.tables import TextTable, as_markdown, percent_text
from mixdpo.study.planned_power import (
    GROWTHS,
    TARGET,
    Earlier,
    Forecast,
    design_of,
    earlier_for,
    forecasts,
    grounds,
)
from mixdpo.study.run_specs import variants
from mixdpo.study.run_study import processes_of
from mixdpo.study.study_file import load_study
from mixdpo.study.study_results import Results, load_results
from mixdpo.study.study_settings import StudySettings

HOURS: Final = 6.0
"""What a study may take."""
PAIRS: Final = (64, 128, 256, 512)
PROMPTS: Final = (6, 24)
BETWEEN: Final = "grows as sqrt(pairs)"
"""The growth that the summary speaks of; the tables have them all."""
RESULTS: Final = ("core", "hardest", "phase", "weights", "target")
"""The studies whose arms treat hard pairs in several ways, as those of the study of ties do."""


def section(study: StudySettings, results: Sequence[Results]) -> str:
    """Return what a planned study would see, as a section of the report."""
    known = earlier_for(study, results)
    names = ", ".join(one.runs["study"]["name"] for one in results)
    return "\n\n".join(
        [
            f"## Planned: {study.title}",
            study.question,
            verdict(study, known),
            as_markdown(_pairs_table(study, known)).rstrip(),
            f"And by the prompts that a task of the test has, of {study.task.pairs} pairs:",
            as_markdown(_prompts_table(study, known)).rstrip(),
            f"{grounds(known)} From the results of {names}; "
            f"`mixdpo study studies/{study.name}.yaml --power studies/results/{results[0].runs['study']['name']}` "
            "and so on says it again, and of your own file.",
        ]
    )


def verdict(study: StudySettings, known: Earlier) -> str:
    """Say whether the file's contrast can be seen in `HOURS`, and if not with how many pairs it could."""
    design = design_of(study, known)
    seeds = max(design.seeds_in(HOURS), 2)
    found = {one.growth: one for one in forecasts(study, known, design, seeds)}
    central = found[BETWEEN]
    others = " and ".join(f"{_share(one)} if it {one.growth}" for one in found.values() if one.growth != BETWEEN)
    minutes = 60 * design.hours_per_seed * processes_of(study) / len(variants(study))
    return (
        f"Can {percent_text(TARGET, 0)} of {study.baseline}'s gain be seen in {HOURS:.0f} hours of two cores? "
        f"{_answer(study, known)} The file has {design.pairs} pairs, and a run takes {minutes:.0f} minutes, two at "
        f"once. In {HOURS:.0f} hours {seeds} seeds run, and find a contrast of {central.smallest:.2f} constraints "
        f"with 80 % power: {_share(central)} of the gain if it {BETWEEN} that are no ties, {others}. How the gain "
        "grows is not known, because the studies at hand have one number of pairs; that variances stay as they are "
        "is assumed too."
    )


def _answer(study: StudySettings, known: Earlier) -> str:
    """Say with how many pairs `HOURS` suffice, for each way in which the gain may grow."""
    told = []
    for growth in GROWTHS:
        for pairs in PAIRS:
            design = design_of(study, known, pairs)
            one = next(each for each in forecasts(study, known, design) if each.growth == growth)
            if one.hours is not None and one.hours <= HOURS:
                told.append(f"if it {growth}, with {pairs} pairs ({one.seeds} seeds, {one.hours:.1f} hours)")
                break
        else:
            told.append(f"if it {growth}, with none of {PAIRS[0]} to {PAIRS[-1]} pairs")
    return f"The answer hangs on how that gain grows with the pairs: {'; '.join(told)}."


def _pairs_table(study: StudySettings, known: Earlier) -> TextTable:
    rows = [
        row for pairs in sorted({*PAIRS, study.task.pairs}) for row in _rows(study, known, f"{pairs:,}", pairs=pairs)
    ]
    return TextTable("", ("pairs", *_HEADINGS), rows, names=2)


def _prompts_table(study: StudySettings, known: Earlier) -> TextTable:
    own = design_of(study, known).items_per_group
    rows = []
    for each in sorted({*PROMPTS, own}):
        lines = _rows(study, known, f"{each:g}", items=each)
        rows += [(f"{each:g}", *line[1:5], lines[0][5], *line[6:]) for line in lines if line[1] == BETWEEN]
    return TextTable("", ("prompts", *_HEADINGS), rows, names=2)


_HEADINGS: Final = (
    "if the gain", "gain", f"seeds for {percent_text(TARGET, 0)} of it", "hours", f"seeds in {HOURS:.0f} hours",
    "these find", "of the gain",
)  # fmt: skip


def _rows(
    study: StudySettings, known: Earlier, label: str, pairs: int | None = None, items: float | None = None
) -> list[tuple[str, ...]]:
    design = design_of(study, known, pairs, items)
    seeds = design.seeds_in(HOURS)
    rows = []
    for number, one in enumerate(forecasts(study, known, design, max(seeds, 2))[: len(GROWTHS)]):
        rows.append(
            (
                label if number == 0 else "",
                one.growth,
                f"{one.gain:+.2f}",
                "-" if one.seeds is None else f"{one.seeds}",
                "-" if one.hours is None else f"{one.hours:.1f}",
                f"{seeds}" if number == 0 else "",
                f"{one.smallest:.2f}" if seeds > 1 else "-",
                _share(one) if seeds > 1 else "-",
            )
        )
    return rows


def _share(one: Forecast) -> str:
    return f"{100 * one.smallest / one.gain:.0f} %" if one.gain > 0 else "-"


def main() -> int:
    """Print the section."""
    if len(sys.argv) < 3:
        print("usage: python scripts/study_power.py STUDY_FILE RESULTS_FOLDER ...", file=sys.stderr)
        return 2
    print(section(load_study(sys.argv[1]), [load_results(Path(folder)) for folder in sys.argv[2:]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
