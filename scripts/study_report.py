"""Write the report of all studies from their committed results.

    python scripts/study_report.py studies/results studies/REPORT.md docs/studies.md

The figures go to the folder `images` beside the report. Nothing in it is written by hand except `study_report.md`, its
beginning. In the last page, which may be left out, what stands between its two marks is written anew: what the studies
could see.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixdpo.common.errors import InputError
from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import atomic_path
from mixdpo.common.tables import as_markdown
from mixdpo.study.analysis import Analysis, analyse
from mixdpo.study.report_files import study_figure
from mixdpo.study.study_file import load_study
from mixdpo.study.study_results import RESULTS_FILE, load_results
from mixdpo.study.study_tables import power_table, result_tables
from study_headlines import headlines_table
from study_power import RESULTS
from study_power import section as planned
from study_summary import summary

INTRODUCTION = Path(__file__).with_suffix(".md")
MARKS = ("<!-- studies: power -->\n", "<!-- end -->\n")


def report(studies: list[Analysis], plans: Sequence[str] = ()) -> str:
    """Return the report as Markdown, with links for the folder that holds results and images; plans come last."""
    introduction = INTRODUCTION.read_text(encoding="utf-8").rstrip("\n")
    parts = [introduction, power(studies), *headlines(studies), *map(section, studies), *plans]
    return "\n\n".join(parts) + "\n"


def power(studies: list[Analysis]) -> str:
    """Return the section that says what the studies could see at all."""
    shares = [one.detectable / one.gain for one in studies if one.detectable is not None and one.gain is not None]
    least = f"{100 * min(shares):.0f} % of its baseline's whole gain" if shares else "of unknown size"
    return "\n\n".join(
        [
            "## What the studies could see",
            "The smallest true effect that a study would find with 80 % power, at Holm's first step: of one arm\n"
            "against the baseline, and of that planned contrast which sees the smallest. In per cent of what the\n"
            "baseline itself gains over the start, where that gain is clear at all. Each is computed from the spread\n"
            f"of a few seeds, which is uncertain itself. At best a study here sees an arm's effect of {least},\n"
            "so \u201cnot clear\u201d on this page is no sign that there is no effect: it may be smaller.",
            as_markdown(power_table(studies)).rstrip(),
        ]
    )


def headlines(studies: list[Analysis]) -> list[str]:
    """Return the section of a few answers, where the studies that have them are there."""
    table = headlines_table(studies)
    if not table.rows:
        return []
    about = (
        "Constraints met (of 3) per answer to held-out prompts, with 95 % intervals. *Clear* means p < 0.05 after\n"
        "Holm's correction in its study; *would find* is the smallest effect seen with 80 % power. What these cannot\n"
        "see, a map of small policies can: [when do small-margin pairs matter?](../docs/when.md)"
    )
    return ["## In six rows", about, as_markdown(table).rstrip()]


def with_power(page: str, studies: list[Analysis]) -> str:
    """Return a page with the table of what studies could see between its two marks; `InputError` without the marks."""
    before, mark, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise InputError(f"a page needs the lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    return f"{before}{mark}{as_markdown(power_table(studies)).rstrip()}\n{end}{after}"


def analyses(folder: Path) -> list[Analysis]:
    """Return the studies whose results are in subfolders, in the order of their titles."""
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, hint="name the folder of all studies' results")
    found = [analyse(load_results(path.parent)) for path in folder.glob(f"*/{RESULTS_FILE}")]
    return sorted(found, key=lambda one: (one.runs["study"]["title"], one.runs["study"]["name"]))


def plans_of(results: Path, study_files: Path) -> list[str]:
    """Return the sections of studies that are planned: that of ties, while it has no results and others have."""
    planned_file = study_files / "ties.yaml"
    if (results / "ties").is_dir() or not planned_file.is_file():
        return []
    return [planned(load_study(planned_file), [load_results(results / name) for name in RESULTS])]


def section(analysis: Analysis) -> str:
    """Return one study's part of the report."""
    study, name = analysis.runs["study"], analysis.runs["study"]["name"]
    return "\n\n".join(
        [
            f"## {study['title'] or name}",
            study["question"],
            "\n".join(f"- {sentence}" for sentence in summary(analysis)),
            f"![Arms of the study {name}](images/{name}.png)",
            *(f"{table.title}\n\n{as_markdown(table).rstrip()}" for table in result_tables(analysis)),
            *_notes(analysis),
            _setting(analysis),
        ]
    )


def _notes(analysis: Analysis) -> list[str]:
    notes = [f"{arm.name}: {arm.note}." for arm in analysis.arms if arm.note]
    return [" ".join(notes)] if notes else []


def _setting(analysis: Analysis) -> str:
    """Say how the study was run, from its records."""
    study, runs = analysis.runs["study"], analysis.runs["runs"]
    bench = study["bench"]
    described = _listed({key: value for key, value in bench.items() if key not in ("kind", "columns")})
    model = f"Model: {study['model']}. " if study.get("model") else ""
    train = {key: value for key, value in study.get("train", {}).items() if not key.startswith("logging")}
    trained = f"Training: {_listed(train)}. " if train else ""
    effects = [one for arm in analysis.arms for one in (arm.against_start, arm.against_baseline) if one is not None]
    tested = f"Test: {effects[0].items} items in {effects[0].variances.groups} groups. " if effects else ""
    tuning = study["tuning"]
    how = "Tuning on the validation split" if tuning["seeds"] else "Not tuned"
    trials = f"{len(tuning['learning_rate']) * len(tuning['beta']) * len(tuning['seeds'])} trials per arm"
    fewer = {arm.trials for arm in analysis.arms if arm.learning_rate is not None and arm.beta is None}
    if fewer:
        trials += f", of them {_plain(sorted(fewer))} different where no beta is read"
    own = [name for name, arm in study["arms"].items() if arm["tuning"] is not None]
    grids = f"; a grid of their own: {', '.join(own)}" if own else ""
    seconds = sum(run.get("training_seconds", 0) + run.get("measuring_seconds", 0) for run in _distinct(runs))
    versions = analysis.runs["versions"]
    libraries = ", ".join(f"{name} {' and '.join(versions[name])}" for name in ("torch", "transformers"))
    again = f"Run it again: `mixdpo study studies/{study['name']}.yaml`."
    return (
        f"{model}Task `{bench['kind']}`: {described}. {trained}{how}: {trials} (rates "
        f"{_plain(tuning['learning_rate'])}, betas {_plain(tuning['beta'])}{grids}). {tested}"
        f"{len(_distinct(runs))} runs, {seconds / 3600:.1f} run-hours on {' and '.join(analysis.runs['devices'])}; "
        f"{libraries}. "
        f"All runs: [tables.md](results/{study['name']}/tables.md). {again}"
    )


def _distinct(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({run["key"]: run for run in runs}.values())


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return json.dumps(value) if not isinstance(value, str) else value


def main(arguments: list[str] | None = None) -> int:
    """Write the report and its figures."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) not in (2, 3):
        print("usage: python scripts/study_report.py RESULTS_FOLDER REPORT [PAGE]", file=sys.stderr)
        return 2
    folder, target = Path(words[0]), Path(words[1])
    try:
        studies = analyses(folder)
        texts = {target: report(studies, plans_of(folder, target.parent))}
        for page in map(Path, words[2:]):
            texts[page] = with_power(page.read_text(encoding="utf-8"), studies)
        for analysis in studies:
            save_figure(study_figure(analysis), target.parent / "images" / analysis.runs["study"]["name"])
    except InputError as error:
        print(f"mixdpo: {error}", file=sys.stderr)
        return error.exit_status
    for path, text in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
