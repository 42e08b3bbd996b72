"""What a judge is to do for one result: what is asked, how verdicts are stored, and what the result says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version as installed
from itertools import islice
from pathlib import Path
from typing import Any, Final

from mixdpo.common.table_files import write_json_lines
from mixdpo.generation.answer_files import ReasoningCount
from mixdpo.generation.chat_model import Progress
from mixdpo.judges.answers import AnswerSources
from mixdpo.judges.judge import FollowUp, Judge, JudgeItem, ParseReply, Verdict, verdict_record
from mixdpo.judges.judge_settings import Temperature


@dataclass(frozen=True)
class Published:
    """What published numbers of a benchmark were made with.

    Attributes:
        judge: its name, and those by which endpoints report it.
        prompts: number of prompts.
        settings: of the judge's task; those that a task does not have, or has as None, do not apply.
        pooled: another judge whose verdicts were put together with its own.
    """

    judge: tuple[str, ...]
    prompts: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    pooled: str | None = None


_FINGERPRINTS: Final = ("judge_prompt", "references")
_CALLED: Final = {
    "judge_prompt": "judge prompt",
    "references": "set of reference answers",
    "max_tokens": "longest judgement",
    "temperature": "judge's temperature",
}


@dataclass(frozen=True, kw_only=True)
class JudgeRun:
    """Who judges what.

    Attributes:
        judge: who.
        sources: the answers, and what a language model is asked.
        dry_run: only say what the run would take.
    """

    judge: Judge
    sources: AnswerSources
    dry_run: bool = False


RowsOfVerdicts = Callable[[str, Sequence[Verdict]], list[dict[str, Any]]]
"""From a model's name and the verdicts on its items, in their order, to rows of the file of verdicts."""


@dataclass(frozen=True)
class JudgeTask:
    """All that a judge is to do for one result.

    Attributes:
        items: what is judged, by model.
        parse: how a language model's reply is read.
        rows: what is stored of the verdicts.
        prompts: number of prompts judged, of each model.
        settings: what makes two results of the benchmark comparable.
        published: what published numbers were made with; None where there are none.
        follow_up: what a language model is asked after a reply.
        reasoning: how many answers come after reasoning, by model, the baseline too; those that have some.
    """

    items: Mapping[str, Sequence[JudgeItem]]
    parse: ParseReply
    rows: RowsOfVerdicts
    prompts: Mapping[str, int]
    settings: Mapping[str, Any]
    published: Published | None = None
    follow_up: FollowUp | None = None
    reasoning: Mapping[str, ReasoningCount] = field(default_factory=dict)

    def all_items(self) -> list[JudgeItem]:
        """Return the items of all models, one after the other."""
        return [item for own in self.items.values() for item in own]


def at_temperature(task: JudgeTask, wanted: Temperature | None) -> JudgeTask:
    """Return the task with settings that name the temperature of a language model, None for the benchmark's own.

    Of a benchmark they name it also for the published numbers, which were made with the benchmark's own.
    """
    own = {item.request.temperature for item in task.all_items() if item.request is not None}
    settings = {**task.settings, "temperature": next(iter(own)) if wanted is None and own else wanted}
    if wanted is None:
        return replace(task, settings=settings)
    published = task.published
    if published is not None and own:
        published = replace(published, settings={**published.settings, "temperature": next(iter(own))})
    return replace(task, settings=settings, published=published)


def run_task(task: JudgeTask, judge: Judge, file: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Let the judge decide on all items, store the verdicts, and return what the result says of the run.

    Returns:
        `verdicts`, `judge`, `settings`, `comparable` and `reasoning`, for the result file.
    """
    verdicts = judge.judge(task.all_items(), task.parse, task.follow_up, progress)
    in_turn = iter(verdicts)
    own = {model: list(islice(in_turn, len(items))) for model, items in task.items.items()}
    write_json_lines(file, [row for model, given in own.items() for row in task.rows(model, given)])
    record = verdict_record(verdicts, judge.name)
    metadata: dict[str, Any] = {
        "verdicts": file.name,
        "judge": {**record, **judge.record()},
        "settings": {**task.settings, "judge": judge.name, "mixdpo": installed("mixdpo")},
    }
    if task.reasoning:
        metadata["reasoning"] = {name: asdict(count) for name, count in task.reasoning.items()}
    if task.published is not None:
        because = differences_from_published(record, task.published, task.prompts, task.settings)
        metadata["comparable"] = {"published": not because, "because": because}
    return metadata


def differences_from_published(
    record: Mapping[str, Any], published: Published, prompts: Mapping[str, int], settings: Mapping[str, Any]
) -> list[str]:
    """Return why a result cannot be put beside published ones; empty if nothing says so.

    Args:
        record: see `verdict_record`.
        published: what those were made with.
        prompts: number of prompts judged, of each model.
        settings: of the task.
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
    for name, theirs in published.settings.items():
        ours, called = settings.get(name), _CALLED.get(name, name)
        if ours not in (None, theirs):
            two = ("another", "the published one") if name in _FINGERPRINTS else (ours, theirs)
            reasons.append(f"the {called} is {two[0]}, not {two[1]}")
    if published.pooled is not None:
        both = f"{published.judge[0]} and {published.pooled}, whose games are pooled"
        reasons.append(f"the panel of judges is one judge, not {both}")
    missing = sum(record["failed_calls"].values()) + record["unread_verdicts"]
    if missing:
        reasons.append(f"{missing} of {record['calls']} verdicts are missing or cannot be read")
    return reasons
