"""Result files and run folders as results: one model on one benchmark, with its items."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import ENDINGS, TableFile, read_table
from mixdpo.evaluation.benchmark import JudgedBenchmark
from mixdpo.evaluation.benchmarks import BENCHMARKS, benchmark_of
from mixdpo.evaluation.compare.result_metrics import Metrics, read_metrics
from mixdpo.evaluation.items import ModelItems, read_items


@dataclass(frozen=True)
class ModelResult:
    """One model's result on one benchmark.

    Attributes:
        benchmark: its name.
        model: its name in the source.
        metrics: the numbers.
        source: the file or folder.
        settings: of the evaluation; equal ones make results comparable.
        items: its scores by prompt and what there is to read; empty where only sums are known.
        answers: file of the model's answers, if the result names one.
        comparable: what the result says of comparing it with published numbers.
        flags: signs of a degenerate model.
        record: all that the result says of the model.
    """

    benchmark: str
    model: str
    metrics: Metrics
    source: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    items: ModelItems = field(default_factory=ModelItems)
    answers: Path | None = None
    comparable: Any = None
    flags: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


def read_source(path: str | Path) -> list[ModelResult]:
    """Read a result file of `mixdpo eval`, or the folder of a run with what was measured in it.

    Raises:
        InputError: there is no such file, or it holds no result.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        from mixdpo.training.run_folder import METRICS_FILE  # loads PyTorch, which result files need not wait for

        results = [result for read in (_results_in, _measured_in, _logged) for result in read(path)]
        if not results:
            raise InputError(
                "the folder holds no result",
                file=path,
                hint=f"give a folder with {METRICS_FILE}, or result files of mixdpo eval",
            )
        return results
    return list(_result_file(path))


def _result_file(path: Path) -> Iterator[ModelResult]:
    record = _read_json(path)
    models = record.get("models")
    if not isinstance(record.get("benchmark"), str) or not isinstance(models, dict) or not models:
        raise InputError(
            "not a result: it needs benchmark and models",
            file=path,
            hint=f"give the file that mixdpo eval wrote; {_TO_BE_JUDGED}",
        )
    yield from _results_of(record, stored_items(path, record), path)


def _results_of(record: Mapping[str, Any], items: Mapping[str, ModelItems], source: Path) -> Iterator[ModelResult]:
    """Yield the result of each model that the content of a result file names."""
    named = record.get("answers")
    answers = named if isinstance(named, dict) else {}
    for model, result in record["models"].items():
        if not isinstance(result, dict):
            raise InputError(f"the result of {model} is not a mapping of metrics", file=source)
        flags = result.get("flags")
        yield ModelResult(
            benchmark=record["benchmark"],
            model=model,
            metrics=read_metrics(result),
            source=source,
            settings=record.get("settings") or {},
            items=items.get(model, ModelItems()),
            answers=beside(source, answers[model]) if isinstance(answers.get(model), str) else None,
            comparable=record.get("comparable"),
            flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
            record=result,
        )


_TO_BE_JUDGED: Final = "judge answers first: mixdpo versus BASE.jsonl OWN.jsonl --judge JUDGE, or mixdpo eval"


def _read_json(path: Path) -> dict[str, Any]:
    if path.is_file() and path.name.endswith(ENDINGS) and not path.name.endswith(".json"):
        raise InputError("answers or verdicts, and no result", file=path, hint=_TO_BE_JUDGED)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file or folder", file=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", file=path, row=error.lineno) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    return content if isinstance(content, dict) else {}


def _results_in(folder: Path) -> Iterator[ModelResult]:
    for path in sorted(folder.glob("*.json")):
        record = _read_json(path)
        if isinstance(record.get("benchmark"), str) and isinstance(record.get("models"), dict):
            yield from _result_file(path)


def _measured_in(folder: Path) -> Iterator[ModelResult]:
    """Yield what benchmarks find in a run's folder, such as the pairs of its last evaluation."""
    for benchmark in BENCHMARKS.values():
        if (scored := benchmark.in_folder(folder)) is not None:
            record = {"benchmark": benchmark.stored_as[0], "settings": scored.settings, "models": scored.models}
            yield from _results_of(record, scored.items, folder)


TRAINING: Final = "training, last logged"
"""What a comparison calls the numbers that training logged, which say less of a model than any benchmark."""
_BOOKKEEPING: Final = ("step", "epoch", "learning_rate", "grad_norm")
"""What a line of metrics says of the run and not of the model."""


def _logged(folder: Path) -> Iterator[ModelResult]:
    """Yield the last numbers that training and its evaluation logged."""
    from mixdpo.training.run_folder import RUN_FILE, logged_metrics

    records = logged_metrics(folder)
    last: dict[str, Any] = {}
    for kind in ("loss", "eval_loss"):
        last |= next((record for record in reversed(records) if kind in record), {})
    if "loss" not in last:  # of a run that logs no steps (`logging_strategy` no) there is the mean over all
        last |= {name: record[name] for record in records for name in ["train_loss"] if name in record}
    for name in _BOOKKEEPING:
        last.pop(name, None)
    if last:
        run = _read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
        yield ModelResult(
            benchmark=TRAINING,
            model=folder.name,
            metrics=read_metrics(last),
            source=folder,
            settings={"data": run.get("data", {})},
        )


_PAIR_METRICS: Final = ("accuracy", "per_token_accuracy")


def stored_items(result: Path, record: Mapping[str, Any]) -> dict[str, ModelItems]:
    """Return the items that a result names, by model; without them, those of the verdicts it names.

    Args:
        result: its file.
        record: what that holds.

    Raises:
        InputError: a file cannot be read.
    """
    named = record.get("items")
    file = beside(result, named) if isinstance(named, str) else None
    benchmark, verdicts = benchmark_of(record["benchmark"]), _verdict_files(result, record)
    if verdicts and isinstance(benchmark, JudgedBenchmark) and (file is None or not file.is_file()):
        return benchmark.items(verdicts, benchmark.options_of(record))
    return read_items(_as_now(read_table(file))) if file is not None else {}


def beside(result: Path, file: str) -> Path:
    """Return a file that a result names: beside the result, or else as it is named."""
    named = Path(file).expanduser()
    return result.parent / named if (result.parent / named).exists() else named


def _as_now(table: TableFile) -> TableFile:
    """Return a table of items in its columns of today.

    Earlier versions called a group `cluster`, and wrote of held-out pairs a row with a column for each metric.
    """
    columns = table.columns
    if "cluster" in columns:
        return TableFile({**columns, "group": columns["cluster"]}, table.file)
    if "score" in columns or "prompt_id" not in columns:
        return table
    metrics = [name for name in _PAIR_METRICS if name in columns]
    rows = len(table)
    return TableFile(
        {
            "model": columns["model"] * len(metrics),
            "metric": [metric for metric in metrics for _ in range(rows)],
            "id": columns["pair_id"] * len(metrics),
            "score": [100 * value for metric in metrics for value in columns[metric]],
            "group": columns["prompt_id"] * len(metrics),
        },
        table.file,
    )


def _verdict_files(result: Path, record: Mapping[str, Any]) -> list[Path]:
    """Return the verdicts that a result names and that are still there."""
    named = record.get("verdicts")
    files = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    found = [beside(result, file) for file in files if isinstance(file, str)]
    return [file for file in found if file.is_file()]
