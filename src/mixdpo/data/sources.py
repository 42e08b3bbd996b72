"""From a file, a folder or a hub id to a raw table of rows."""

from __future__ import annotations

import glob
import gzip
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from mixdpo.errors import InputError

_BUILDERS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_source(path: str, *, split: str, name: str | None = None, revision: str | None = None) -> Dataset:
    """Return the rows of `path` as they are.

    Args:
        path: a parquet, JSONL, JSON, CSV or Arrow file (JSON and CSV also as .gz), a folder of such files or one
            made by `save_to_disk`, a glob pattern, or a hub id `owner/name`.
        split: split of a hub data set or of a saved DatasetDict.
        name: configuration of a hub data set.
        revision: branch, tag or commit of a hub data set.

    Raises:
        InputError: nothing there, not readable, or empty; names the first bad row where there is one.
    """
    local = Path(path).expanduser()
    if local.is_dir() and any((local / mark).exists() for mark in ("state.json", "dataset_dict.json")):
        rows = _read_saved(local, split)
    elif files := _files_of(path, local):
        rows = _read_files(files)
    elif local.exists():
        raise InputError("the folder holds no data file", file=local, mend=f"it may hold {', '.join(_BUILDERS)}")
    elif _HUB_ID.fullmatch(path) and not local.suffix:
        rows = _read_hub(path, split, name, revision)
    else:
        raise InputError("no such file or folder", file=path)
    if len(rows) == 0:
        raise InputError("the file has no rows", file=path)
    return rows


def _files_of(path: str, local: Path) -> list[Path]:
    if local.is_file():
        return [local]
    if local.is_dir():
        return sorted(file for file in local.iterdir() if _suffix(file) in _BUILDERS)
    return sorted(Path(file) for file in glob.glob(str(local), recursive=True))


def _suffix(file: Path) -> str:
    return file.with_suffix("").suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def _read_files(files: Sequence[Path]) -> Dataset:
    for file in files:
        if _suffix(file) not in _BUILDERS:
            raise InputError(
                f"files of type {file.suffix or 'without suffix'} are not read",
                file=file,
                mend=f"convert it to one of {', '.join(_BUILDERS)}",
            )
        if file.stat().st_size == 0:
            raise InputError("the file is empty", file=file)
    kinds = {_BUILDERS[_suffix(file)] for file in files}
    if len(kinds) > 1:
        raise InputError(f"files of different kinds ({', '.join(sorted(kinds))})", file=files[0].parent)
    options = {"delimiter": "\t"} if _suffix(files[0]) == ".tsv" else {}
    try:
        with _quiet():
            return load_dataset(kinds.pop(), data_files=[str(f) for f in files], split="train", **options)
    except (DatasetGenerationError, StopIteration, ValueError, pa.ArrowException, OSError) as error:
        for file in files:
            _find_bad_row(file)
        cause = error.__cause__ or error
        raise InputError(f"cannot be read ({type(cause).__name__}: {cause})", file=files[0]) from error


def _find_bad_row(file: Path) -> None:
    """Raise an `InputError` that says where `file` is broken; return if nothing is found."""
    kind = _BUILDERS[_suffix(file)]
    try:
        if kind == "parquet":
            pq.read_table(file)
        elif kind == "json":
            _check_json(file)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise InputError(f"a broken {kind} file ({error})", file=file) from error


def _check_json(file: Path) -> None:
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as stream:
        if _suffix(file) == ".json":
            try:
                content = json.load(stream)
            except json.JSONDecodeError as error:
                raise InputError(f"not valid JSON ({error.msg})", file=file, row=error.lineno) from error
            if not isinstance(content, list):
                raise InputError("a JSON file must hold a list of objects", file=file, mend="or use one line per row")
            rows: Iterator[tuple[int, object]] = iter(enumerate(content, 1))
        else:
            rows = _json_lines(file, stream)
        found = False
        for number, row in rows:
            found = True
            if not isinstance(row, dict):
                raise InputError("the row is not an object with named columns", file=file, row=number)
        if not found:
            raise InputError("the file is empty", file=file)


def _json_lines(file: Path, stream: Iterator[str]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"the line is not valid JSON ({error.msg} at character {error.pos + 1})",
                    file=file,
                    row=number,
                    mend="mend or remove the line",
                ) from error


def _read_saved(folder: Path, split: str) -> Dataset:
    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"a broken data folder ({error})", file=folder) from error
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise InputError(f"no split {split!r}", file=folder, mend=f"splits are {', '.join(saved)}")
        return saved[split]
    return saved


def _read_hub(path: str, split: str, name: str | None, revision: str | None) -> Dataset:
    try:
        return load_dataset(path, name=name, split=split, revision=revision)
    except Exception as error:  # the hub client raises a dozen kinds; all mean that the data cannot be had
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"no such file, and the hub data set cannot be loaded: {first_line}",
            file=path,
            mend="check the name, data.name, data.split and the network",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own bars and log lines away: what went wrong is said in our words."""
    bars = datasets.utils.logging.is_progress_bar_enabled()
    logger = logging.getLogger("datasets")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
