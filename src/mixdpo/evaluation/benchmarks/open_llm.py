"""The downstream tasks of the Open LLM Leaderboard v1, run by lm-evaluation-harness.

Shots and metrics are the leaderboard's (github.com/EleutherAI/lm-evaluation-harness, group `openllm`). It ran an old
version of the harness, so its published numbers differ a little from what a current one gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.files import unfinished
from mixdpo.common.settings import check_ranges
from mixdpo.common.statistics import mean_of_means, proportion
from mixdpo.common.tables import TextTable, interval_text, value_text
from mixdpo.data.data_settings import TEMPLATE_KWARGS_HELP, check_template_kwargs
from mixdpo.evaluation.benchmark import MeasuredBenchmark, MetricNames, Record, Say, Scored
from mixdpo.evaluation.benchmarks.open_llm_tasks import OPEN_LLM_V1, Finished, TaskScore, find_tasks, run_tasks
from mixdpo.evaluation.items import ModelItems
from mixdpo.evaluation.thinking_templates import opens_reasoning_by
from mixdpo.generation.reply_cache import reply_cache

if TYPE_CHECKING:  # PyTorch takes seconds, and help and stored results need none of it
    pass


@dataclass(frozen=True, kw_only=True)
class OpenLLMOptions:
    """Which model runs which tasks, and how they are asked."""

    model: str = field(metadata={"help": "folder or hub id"})
    adapter: str | None = field(default=None, metadata={"help": "folder or hub id of a trained adapter on the model"})
    tasks: str | None = field(
        default=None,
        metadata={"help": "tasks of the harness, separated by commas; default: the leaderboard's six"},
    )
    limit: int | None = field(
        default=None, metadata={"help": "questions of each (sub)task at most: a trial, no result", "at_least": 1}
    )
    chat_template: bool = field(
        default=False, metadata={"help": "ask in the model's chat template; the leaderboard did not"}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": f"{TEMPLATE_KWARGS_HELP}, with --chat-template"}
    )
    include_path: Path | None = field(default=None, metadata={"help": "folder of task files of your own"})
    batch_size: int = field(default=8, metadata={"help": "requests at once", "at_least": 1})

    def __post_init__(self) -> None:
        check_ranges(self)
        check_template_kwargs(self.chat_template_kwargs)
        if self.chat_template_kwargs is not None and not self.chat_template:
            raise InputError("chat_template_kwargs: no chat template is used", hint="give --chat-template too")


def measure(options: OpenLLMOptions, output: Path, say: Say) -> Scored:
    """Run the tasks; one that a stopped run has finished is not run again."""
    from mixdpo.generation.local_model import content_digest
    from mixdpo.models.loading import load_for_inference, load_tokenizer
    from mixdpo.models.model_settings import ModelSettings, model_name

    names = [name.strip() for name in options.tasks.split(",") if name.strip()] if options.tasks else list(OPEN_LLM_V1)
    settings = ModelSettings(name_or_path=options.model, adapter=options.adapter)
    tasks = find_tasks(names, options.include_path)
    model = load_for_inference(settings)
    tokenizer = load_tokenizer(settings)
    if options.chat_template and opens_reasoning_by(tokenizer, options.chat_template_kwargs):
        say(
            "note: the chat template opens reasoning, within which choices are scored; "
            "--chat-template-kwargs '{enable_thinking: false}' keeps many a template from it",
            err=True,
        )
    names_of_how = ("limit", "chat_template", "chat_template_kwargs", "batch_size")
    how: dict[str, Any] = {name: getattr(options, name) for name in names_of_how}
    with reply_cache(unfinished(output)) as cache:
        finished = Finished(cache, content_digest(model))
        scores = dict(run_tasks(model, tokenizer, tasks, **how, finished=finished))
    as_published = not (options.limit or options.chat_template or options.include_path)
    name = model_name(options.adapter or options.model)
    return Scored(
        models={name: summarise(scores)},
        items={name: items_of(scores)},
        settings={
            "model": options.model, "adapter": options.adapter, "dtype": str(model.dtype).removeprefix("torch."),
            "limit": options.limit, "chat_template": options.chat_template,
            "chat_template_kwargs": options.chat_template_kwargs, **describe(scores),
        },
        others={
            "comparable": {
                "published": as_published and set(names) <= set(OPEN_LLM_V1),
                "note": "the leaderboard ran an older version of the harness",
            }
        },
    )  # fmt: skip


def summarise(scores: Mapping[str, TaskScore]) -> dict[str, Any]:
    """Return a model's results in percent: every task and their mean, with standard errors and 95 % intervals.

    A task of several subtasks is their plain mean, as on the leaderboard. An interval is None where a subtask has
    fewer than two questions.
    """
    result: dict[str, Any] = {}
    for name, score in scores.items():
        values = list(score.items.values())
        result |= _with_interval(name, values, [1.0] * len(values))
    every = [(values, 1 / len(score.items)) for score in scores.values() for values in score.items.values()]
    result |= _with_interval("mean", [values for values, _ in every], [weight for _, weight in every])
    result["n"] = {name: sum(map(len, score.items.values())) for name, score in scores.items()}
    return result


def describe(scores: Mapping[str, TaskScore]) -> dict[str, Any]:
    """Return shots, metric and version of each task, and the versions of the libraries."""
    tasks = {
        name: {"shots": score.shots, "metric": score.metric, "versions": dict(score.versions)}
        for name, score in scores.items()
    }
    libraries = {name: metadata.version(name) for name in ("lm_eval", "transformers", "torch", "datasets")}
    return {"tasks": tasks, "versions": libraries}


def items_of(scores: Mapping[str, TaskScore]) -> ModelItems:
    """Return each question's score in percent, by task; subtasks weigh alike, whatever their sizes."""
    ids = {
        (name, task): [f"{task} {number}" for number in range(len(values))]
        for name, score in scores.items()
        for task, values in score.items.items()
    }
    found: dict[str, dict[str, float]] = {name: {} for name in scores}
    weights: dict[str, float] = {}
    for (name, task), own in ids.items():
        found[name] |= dict(zip(own, (100 * scores[name].items[task]).tolist(), strict=True))
        if len(scores[name].items) > 1:
            weights |= dict.fromkeys(own, 1 / len(own))
    return ModelItems(found, weights=weights)


def _with_interval(name: str, values: Sequence[np.ndarray], weights: Sequence[float]) -> dict[str, Any]:
    interval, error = mean_of_means(values, weights)
    only = values[0]
    if len(values) == 1 and np.isin(only, (0, 1)).all():
        # Right or wrong: Wilson's interval holds where nearly all are right.
        interval = proportion(int(only.sum()), len(only))
    known = bool(np.isfinite(error))
    return {
        name: 100 * interval.estimate,
        f"{name}_standard_error": 100 * error if known else None,
        f"{name}_interval": [100 * interval.low, 100 * interval.high] if known else None,
    }


def _table(record: Record) -> TextTable:
    ((name, result),) = record["models"].items()
    rows = [
        [task, *_cells(result, task), one["metric"], f"{one['shots']}", f"{result['n'][task]:,}"]
        for task, one in record["settings"]["tasks"].items()
    ]
    rows.append(["mean", *_cells(result, "mean"), "", "", f"{sum(result['n'].values()):,}"])
    headings = ["task", "score", "std. error", "95 % interval", "metric", "shots", "n"]
    return TextTable(f"Open LLM Leaderboard v1, {name}", headings, rows)


def _cells(result: Record, task: str) -> tuple[str, str, str]:
    error, interval = result[f"{task}_standard_error"], result[f"{task}_interval"]
    return value_text(result[task]), value_text(error), interval_text(interval)


BENCHMARK: Final = MeasuredBenchmark(
    help="""Downstream tasks by lm-evaluation-harness: MMLU, TruthfulQA, HellaSwag, ARC-C, WinoGrande, GSM8K.

    A run that was stopped goes on with the first task that was not finished when it is started again.
    """,
    stored_as=("open_llm_v1",),
    options=OpenLLMOptions,
    metrics=MetricNames(headlines=("mean",)),
    table=_table,
    measure=measure,
)
