"""Verifiable constraints, as in IFEval: how many of three an answer to a held-out prompt meets, which programs say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges
from mixdpo.common.statistics import Interval, both_ends, clustered_mean, proportion
from mixdpo.common.table_files import ENDINGS, read_table
from mixdpo.common.tables import TextTable, value_text
from mixdpo.evaluation.benchmark import Column, MeasuredBenchmark, MetricNames, Record, Say, Scored, models_table
from mixdpo.evaluation.items import ModelItems, Transcript
from mixdpo.evaluation.statistics.paired import compare_all
from mixdpo.evaluation.statistics.records import flags_record
from mixdpo.generation.answer_files import plain_text

if TYPE_CHECKING:
    from mixdpo.evaluation.held_out_prompts import ConstrainedPrompts


CONSTRAINTS: Final = 3
"""On an answer to each prompt."""


@dataclass(frozen=True, kw_only=True)
class ConstraintOptions:
    """Whose answers to which prompts are measured."""

    sources: tuple[str, ...] = field(metadata={"argument": True})
    split: Literal["validation", "test"] = field(
        default="test", metadata={"help": "which of the demo's held-out prompts"}
    )
    column: str | None = field(
        default=None, metadata={"help": "column of the answers in files; default: answer, output or response"}
    )
    limit: int | None = field(default=None, metadata={"help": "take only the first prompts", "at_least": 2})

    def __post_init__(self) -> None:
        check_ranges(self)


def measure(options: ConstraintOptions, output: Path, say: Say) -> Scored:
    """Let models answer, read the answers of files, and count what they meet.

    Raises:
        InputError: two sources have one name, or one cannot be read or lacks an answer.
    """
    from mixdpo.evaluation.held_out_prompts import answers_of, count_met, read_held_out

    held_out = read_held_out(options.split, options.limit)
    sources = _named(options.sources)
    read = {name: answers_of(source, held_out, options.column) for name, source in sources.items()}
    answers = {name: texts for name, (texts, _) in read.items()}
    thought = {name: asdict(count) for name, (_, count) in read.items() if count.with_reasoning}
    met = {name: count_met(texts, held_out) for name, texts in answers.items()}
    prompts, tasks = list(map(plain_text, held_out.prompts)), held_out.tasks
    items = {name: _items(met[name], answers[name], prompts, tasks) for name in sources}
    by_task = {name: own.independent("demands_met") for name, own in items.items()}
    return Scored(
        models={name: summarise(answers[name], met[name], held_out) for name in sources},
        items=items,
        settings={"split": options.split, "prompts": len(held_out.prompts), "sources": sources},
        others={
            "differences": [asdict(one) for one in compare_all(by_task)],
            **({"reasoning": thought} if thought else {}),
        },
    )


def summarise(answers: Sequence[str], met: np.ndarray, held_out: ConstrainedPrompts) -> dict[str, Any]:
    """Return constraints met per answer and the share of answers that meet all, with 95 % intervals, and lengths.

    The interval of the first is of percentiles of a bootstrap that resamples tasks, that of the share Wilson's.
    """
    mean = _mean(met, held_out.tasks)
    every = met == np.array([len(constraints) for constraints in held_out.constraints])
    all_met = proportion(int(every.sum()), len(every))
    return {
        "demands_met": mean.estimate,
        "demands_met_interval": both_ends(mean),
        "all_met": 100 * all_met.estimate,
        "all_met_interval": [100 * all_met.low, 100 * all_met.high],
        "avg_length": int(np.mean([len(answer) for answer in answers])),
        "flags": flags_record(answers),
        "n": len(met),
    }


def _mean(met: np.ndarray, tasks: Sequence[str]) -> Interval:
    return clustered_mean(met, tasks, rng=np.random.default_rng(0), scale=(0.0, CONSTRAINTS))


def _items(met: np.ndarray, answers: Sequence[str], prompts: Sequence[str], tasks: Sequence[str]) -> ModelItems:
    """Return what one model's answers meet, by number of the prompt; prompts of one task are a group."""
    ids = list(map(str, range(len(met))))
    return ModelItems(
        {"demands_met": dict(zip(ids, met.tolist(), strict=True))},
        {id: Transcript(prompt, answer) for id, prompt, answer in zip(ids, prompts, answers, strict=True)},
        dict(zip(ids, tasks, strict=True)),
    )


def in_folder(folder: Path) -> Scored | None:
    """Return what the demo measured before and after training."""
    if not ((folder / "demo.json").is_file() and (folder / "answers.parquet").is_file()):
        return None
    table = read_table(folder / "answers.parquet")
    prompts, tasks = table.texts("prompt"), table.texts("task")
    models, items = {}, {}
    for side, name in (("before", f"{folder.name} before training"), ("after", folder.name)):
        met, answers = table.numbers(f"met_{side}"), table.texts(side)
        mean = _mean(met, tasks)
        models[name] = {
            "demands_met": mean.estimate,
            "demands_met_interval": both_ends(mean),
            "avg_length": float(np.mean([len(answer) for answer in answers])),
            "flags": flags_record(answers),
        }
        items[name] = _items(met, answers, prompts, tasks)
    return Scored(models=models, items=items, settings={"split": "test", "prompts": len(prompts)})


def _named(sources: Sequence[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for source in sources:
        given, equals, rest = source.partition("=")
        name, value = (given, rest) if equals and not Path(source).exists() else (_short_name(source), source)
        if name in named:
            raise InputError(f"two sources are called {name}", hint="name them: NAME=SOURCE")
        named[name] = value
    return named


def _short_name(source: str) -> str:
    from mixdpo.models.model_settings import model_name

    if not Path(source).is_file():
        return model_name(source)
    name = Path(source).name
    ending = max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")
    return name.removesuffix(ending)


def _table(record: Record) -> TextTable:
    columns = [
        Column.number("met of 3", "demands_met"),
        Column.interval("95 % interval", "demands_met_interval", 2),
        Column("all met", lambda one: f"{value_text(one['all_met'], 0)} %"),
        Column.interval("95 % interval", "all_met_interval", 0),
        Column.count("length", "avg_length"),
    ]
    prompts = record["settings"]["prompts"]
    return models_table(f"verifiable constraints, {prompts} held-out prompts", record, "demands_met", columns)


BENCHMARK: Final = MeasuredBenchmark(
    help="""Verifiable constraints: how many of three an answer meets, counted by programs.

    SOURCES are files of answers (with a column prompt) or models (folder or hub id); NAME=SOURCE names one.
    """,
    stored_as=("demands",),
    options=ConstraintOptions,
    metrics=MetricNames(
        headlines=("demands_met",), labels={"demands_met": "constraints met", "all_met": "all met, %"}
    ),
    table=_table,
    measure=measure,
    in_folder=in_folder,
)
