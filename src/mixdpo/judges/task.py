"""A judge run of a benchmark: what is asked, how the verdicts are stored, and what the result says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import write_json_lines
from mixdpo.judges.items import FollowUp, JudgeItem, ParseReply, Progress, Verdict, verdict_record
from mixdpo.judges.language_model import Judge


@dataclass(frozen=True)
class Published:
    """What published numbers of a benchmark were made with.

    Attributes:
        judge: its name, and those by which endpoints report it.
        prompts: number of prompts.
        others: pairs (ours, theirs) of other settings, by what they are; ours is None where it does not apply.
    """

    judge: tuple[str, ...]
    prompts: int
    others: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


Temperature = float | Literal["default"]
"""At which a judge writes; `default` sends none, for models that take only their own."""


@dataclass(frozen=True)
class JudgeTask:
    """All that a judge is to do for one result.

    Attributes:
        cases: what is judged, of all models.
        read: how a language model's reply is read.
        rows: from the verdicts, in the order of the cases, to the rows of the file of verdicts.
        prompts: number of prompts judged, of each model.
        settings: what makes two results of the benchmark comparable.
        published: what published numbers were made with; None where there are none.
        follow_up: what a language model is asked after a reply.
    """

    cases: Sequence[JudgeItem]
    read: ParseReply
    rows: Callable[[Sequence[Verdict]], list[dict[str, Any]]]
    prompts: Mapping[str, int]
    settings: Mapping[str, Any]
    published: Published | None = None
    follow_up: FollowUp | None = None


def at_temperature(plan: JudgeTask, wanted: Temperature | None) -> JudgeTask:
    """Return the plan of a judge that is asked in words at this temperature, None for the benchmark's own.

    The settings name it, and of a benchmark also that published numbers were made with another.
    """
    own = {case.request.temperature for case in plan.cases}
    settings = {**plan.settings, "temperature": next(iter(own)) if wanted is None and own else wanted}
    if wanted is None:
        return replace(plan, settings=settings)
    sent = None if wanted == "default" else wanted
    cases = [replace(case, request=replace(case.request, temperature=sent)) for case in plan.cases]
    published = plan.published
    if published is not None and own:
        others = {**published.others, "judge's temperature": (wanted, next(iter(own)))}
        published = replace(published, others=others)
    return replace(plan, cases=cases, settings=settings, published=published)


def verdicts_file(output: Path) -> Path:
    """Return where the verdicts of a result are stored: beside it."""
    return output.with_name(f"{output.name.removesuffix('.json')}.verdicts.jsonl")


def run_plan(plan: JudgeTask, judge: Judge, file: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Let the judge decide all cases, store the verdicts, and return what the result says of the run.

    Returns:
        `verdicts`, `judge`, `settings` and `comparable`, for the result file.
    """
    verdicts = judge.judge(plan.cases, plan.read, plan.follow_up, progress)
    write_json_lines(file, plan.rows(verdicts))
    record = verdict_record(verdicts, judge.name)
    told: dict[str, Any] = {
        "verdicts": file.name,
        "judge": {**record, **judge.record()},
        "settings": {**plan.settings, "judge": judge.name, "mixdpo": installed("mixdpo")},
    }
    if plan.published is not None:
        because = differences_from_published(record, plan.published, plan.prompts)
        told["comparable"] = {"published": not because, "because": because}
    return told


def with_run(result: dict[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark's result together with what `run_plan` said."""
    return {**result, **run, "settings": {**result.get("settings", {}), **run["settings"]}}


def differences_from_published(
    record: Mapping[str, Any], published: Published, prompts: Mapping[str, int]
) -> list[str]:
    """Return why a result cannot be put beside published ones; empty if nothing says so.

    Args:
        record: see `verdict_record`.
        published: what those were made with.
        prompts: number of prompts judged, of each model.
    """
    reasons = []
    seen = set(record["judge_versions"]) or {record["judge"]}
    if not seen <= set(published.judge):
        reasons.append(f"the judge is {', '.join(sorted(seen))}, not {published.judge[0]}")
    reasons += [
        f"{count} prompts of {model} were judged, not {published.prompts}"
        for model, count in prompts.items()
        if count != published.prompts
    ]
    reasons += [
        f"the {what} is {ours}, not {theirs}"
        for what, (ours, theirs) in published.others.items()
        if ours not in (None, theirs)
    ]
    missing = sum(record["failed_calls"].values()) + record["unread_verdicts"]
    if missing:
        reasons.append(f"{missing} of {record['calls']} verdicts are missing or cannot be read")
    return reasons


def distinct_names(names: Sequence[str], files: Sequence[Path]) -> None:
    """Raise `InputError` if two models have one name."""
    for row, name in enumerate(names):
        if name in names[:row]:
            raise InputError(
                f"a second model called {name}", file=files[row], hint="tell them apart: --model NAME=FILE"
            )
