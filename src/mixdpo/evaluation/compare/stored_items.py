"""The items of a result file, whichever version wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.benchmark import JudgedBenchmark
from mixdpo.evaluation.benchmarks import benchmark_of
from mixdpo.evaluation.items import ModelItems, read_items

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
