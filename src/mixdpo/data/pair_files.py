"""Writing pairs in the format that the file's name says, so that they are the same pairs when they are read again."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, Final

from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, check_output
from mixdpo.data.sources import quiet_datasets

_GZIP: Final = ".gz"
_BATCH: Final = 1_000
_PLACES: Final = ("source_row", "source_file")
"""Where a pair was read from; the file that is written has rows of its own."""


def check_pairs_output(path: Path) -> None:
    """Raise `InputError` where pairs could not be written, or under a name that says no format."""
    if _format_of(path) is None:
        endings = f".parquet, {', '.join(_WRITERS)}"
        raise InputError("pairs are not written in this format", file=path, hint=f"end --output with one of {endings}")
    check_output(path)


def beside(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to a file of pairs: its name with another ending."""
    return path.with_name(path.name.removesuffix(_GZIP).rpartition(".")[0] + ending)


def save_pairs(pairs: Dataset, path: Path) -> None:
    """Write pairs, with all their columns but the place they were read from, atomically.

    Raises:
        InputError: the name says no format, or a column holds what the format cannot.
    """
    check_pairs_output(path)
    pairs = pairs.remove_columns([name for name in _PLACES if name in pairs.column_names])
    kind = _format_of(path)
    with atomic_path(path) as temporary, quiet_datasets():
        if kind == ".parquet":
            pairs.to_parquet(str(temporary))
            return
        opener: Any = gzip.open if path.name.endswith(_GZIP) else open
        with opener(temporary, "wb") as raw, TextIOWrapper(raw, encoding="utf-8", newline="") as stream:
            _WRITERS[str(kind)](stream, pairs, path)


def _format_of(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    return next((ending for ending in _WRITERS if name.removesuffix(_GZIP).endswith(ending)), None)


def _rows(pairs: Dataset, path: Path) -> Iterator[dict[str, Any]]:
    for batch in pairs.iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            yield {name: _plain(value, name, path) for name, value in row.items()}


def _plain(value: Any, column: str, path: Path) -> Any:
    """Return a value as JSON has it: NaN as null, times as text.

    Raises:
        InputError: it is of bytes, such as an image.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item, column, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, column, path) for item in value]
    if isinstance(value, (datetime, date, time, timedelta, Decimal)):
        return str(value)
    raise InputError(
        f"the column holds {type(value).__name__}, which is no text",
        file=path,
        column=column,
        hint="end --output with .parquet",
    )


def _write_json_lines(stream: IO[str], pairs: Dataset, path: Path) -> None:
    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(pairs, path))


def _write_json(stream: IO[str], pairs: Dataset, path: Path) -> None:
    for number, row in enumerate(_rows(pairs, path)):
        stream.write((",\n" if number else "[\n") + json.dumps(row, ensure_ascii=False))
    stream.write("\n]\n")


def _write_csv(stream: IO[str], pairs: Dataset, path: Path) -> None:
    # All texts in quotes: the module leaves a carriage return outside of them.
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(pairs.column_names)
    for row in _rows(pairs, path):
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
            for value in row.values()
        )


_WRITERS: Final[dict[str, Callable[[IO[str], Dataset, Path], None]]] = {
    ".jsonl": _write_json_lines,
    ".json": _write_json,
    ".csv": _write_csv,
}
"""By ending, also before `.gz`, what writes pairs in text formats."""
