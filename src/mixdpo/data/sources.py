"""From what a user names (file, folder, glob, hub id) to a raw `datasets.Dataset`. Nothing is interpreted here."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from logging import CRITICAL
from pathlib import Path
from typing import Any, Final

import datasets
from datasets.data_files import DataFilesList, get_data_patterns
from datasets.exceptions import DatasetsError

from mixdpo.common.cache import hold
from mixdpo.common.disk import cache_explained
from mixdpo.common.errors import InputError, MixdpoError
from mixdpo.common.files import atomic_path, data_cache, digest
from mixdpo.common.hub import from_hub
from mixdpo.common.urls import shown_url
from mixdpo.data.columns import is_text
from mixdpo.data.csv_cells import mended_cells
from mixdpo.data.csv_form import UTF_8, CsvForm, csv_form, find_encoding, open_lines
from mixdpo.data.diagnose import check_json, diagnose, find_stray_type
from mixdpo.data.row_places import RowPlaces, places_in_files, places_in_table

FORMATS: Final[dict[str, str]] = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".ndjson": "json",
    ".json": "json",
    ".json.gz": "json",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".arrow": "arrow",
}
"""File name endings that are read, and the name of the library's reader for each."""

_JSON_CHUNK: Final = 1 << 28
"""Bytes from which the library infers the types of a JSON file; its own 10 MB miss keys that come up later."""

_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_OF_DATASETS: Final = (DatasetsError, OSError, ValueError, RuntimeError)
"""What the library raises of a data set of the hub."""
_SPLIT: Final = re.compile(r"(?P<name>\w[\w.-]*)(?P<slice>\[[^\]]*\])?")


@dataclass(frozen=True, kw_only=True)
class RawSource:
    """The rows of one source, as they were written.

    Attributes:
        name: the source as the user named it.
        dataset: its rows; memory-mapped.
        key: digest of its content; another content is another key.
        files: the local files in reading order, empty for the hub.
        row_index: for slices of a split, index in the files of each row; None when all rows are there.
        whole_rows: for slices, rows that there are in the files.
        notes: what was guessed about the files, for reports.
    """

    name: str
    dataset: datasets.Dataset
    key: str
    files: tuple[Path, ...] = ()
    row_index: Sequence[int] | None = None
    whole_rows: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def places(self) -> RowPlaces:
        """Where its rows stand; of text files a pass over them."""
        rows = len(self.dataset) if self.row_index is None else self.whole_rows
        whole = places_in_files(self.name, self.files, rows) if self.files else places_in_table(self.name, rows)
        return whole if self.row_index is None else whole.taken(self.row_index)


def open_source(path: str, *, split: str = "train", name: str | None = None, revision: str | None = None) -> RawSource:
    """Open a source as one data set.

    Args:
        path: a file or folder of parquet, JSON lines (.jsonl, .json, also .gz), JSON (a list of objects), CSV, TSV
            or Arrow; a folder made by `save_to_disk`; a glob of such files; else the id of a hub data set.
        split: split to read, also a slice of it such as `train[:1000]` or `train[10%:20%]`.
        name: configuration of a hub data set.
        revision: branch, tag or commit of a hub data set.

    Raises:
        InputError: it does not exist, is empty, cannot be read, has no such split, or is not the hub's and would
            need to be for what is given.
    """
    local = Path(path).expanduser()
    if "://" in path:
        raise InputError(
            "data is not read from a URL",
            file=shown_url(path),
            hint="download the file and name it, or give a hub id as owner/name",
        )
    if not local.exists() and _HUB_ID.fullmatch(path) and _ending(local) is None:
        return _open_hub(path, split, name, revision)
    check_reads_no_hub(path, name, revision)
    if glob.has_magic(path) and not local.exists():
        files = sorted(Path(match) for match in glob.glob(str(local), recursive=True) if Path(match).is_file())
        if not files:
            raise InputError("no file matches the pattern", file=path)
    elif local.is_file():
        files = [local]
    elif local.is_dir():
        if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
            return _open_saved(path, local, split)
        return _open_files(path, _files_of_split(local, split), split)
    else:
        raise InputError("no such file or folder", file=path, hint="check the path, or give a hub id as owner/name")
    if _split_name(path, split) != "train":
        raise InputError(
            f"a file has no splits, so {split!r} cannot be read from it",
            file=path,
            hint="leave `split` out, or name the file of that split",
        )
    return _open_files(path, files, split)


def check_reads_no_hub(path: str, name: str | None, revision: str | None) -> None:
    """Raise `InputError` where what is not on the hub is given what only data sets of the hub have."""
    for setting, value in (("name", name), ("revision", revision)):
        if value is not None:
            raise InputError(
                f"only a data set of the hub has a {setting}, so {value!r} cannot be read",
                file=path,
                hint=f"leave `{setting}` out, or give a hub id as owner/name",
            )


def source_in_memory(dataset: datasets.Dataset | datasets.DatasetDict, name: str, split: str = "train") -> RawSource:
    """Take a data set that the caller made and has a name for, and a split or a slice of it as `open_source` does.

    Raises:
        InputError: it is empty, or has no such split.
    """
    wanted = _split_name(name, split)
    if isinstance(dataset, datasets.DatasetDict):
        if wanted not in dataset:
            raise _no_split(name, wanted, dataset)
        dataset = dataset[wanted]
    elif wanted != "train":
        raise InputError(f"it has no splits, so {split!r} cannot be read from it", file=name, hint="leave `split` out")
    if len(dataset) == 0:
        raise InputError("it holds no rows", file=name)
    plain = dataset.with_format(None)
    return _sliced(RawSource(name=name, dataset=plain, key=digest([plain._fingerprint])), split)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep the datasets library from printing bars and log lines of its own inside the block."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def _open_files(name: str, files: Sequence[Path], split: str) -> RawSource:
    endings = {file: _ending(file) for file in files}
    for file, ending in endings.items():
        if ending is None:
            raise InputError(
                f"files of type {file.suffix or 'none'} are not read",
                file=file,
                hint=f"use one of {', '.join(FORMATS)}",
            )
        if file.stat().st_size == 0:
            raise InputError("the file is empty", file=file)
    kinds = sorted({FORMATS[ending] for ending in endings.values() if ending})
    if len(kinds) > 1:
        raise InputError(f"files of several formats ({', '.join(kinds)})", file=name, hint="name one format by a glob")
    kind, key, cache = kinds[0], _content_key(files), data_cache()
    form = _common_form(files) if kind == "csv" else None
    options = _csv_options(form) if form is not None else {"chunksize": _JSON_CHUNK} if kind == "json" else {}
    encodings = {file: find_encoding(file) for file in files} if kind == "json" else {}
    hold(cache / key)
    try:
        with cache_explained():
            readable = [_in_utf8(file, encodings.get(file, UTF_8), cache / key) for file in files]
        if kind == "json":
            for file, given in zip(readable, files, strict=True):
                check_json(file, given)
        with quiet_datasets(), cache_explained():
            dataset = datasets.load_dataset(
                kind,
                data_files={"train": [glob.escape(str(file.absolute())) for file in readable]},
                split="train",
                # The library's own key is path and time; a changed file of the same time would give stale rows.
                cache_dir=str(cache / key),
                **options,
            )
            if form is not None and form.overfull:
                raise ValueError("a record has more cells than the header")  # pandas takes the first for an index
            dataset.data.table.validate(full=True)  # not every reader minds what is not UTF-8
    except MixdpoError:
        raise
    # Every reader and decompressor has errors of its own, and next() on no rows gives StopIteration.
    except Exception as error:
        raise diagnose(files, error) from error
    hold(cache / key)
    if len(dataset) == 0:
        raise InputError("the file holds no rows", file=files[0])
    if kind == "json" and (len(files) > 1 or files[0].suffix == ".gz" or files[0].stat().st_size > _JSON_CHUNK):
        stray = find_stray_type(files, {column for column, kind in dataset.features.items() if is_text(kind)})
        if stray is not None:
            raise stray
    commas: list[str] = []
    if form is not None:
        if form.spare and any(cell and cell.strip() for cell in dataset[form.columns[-1]]):
            raise diagnose(files, ValueError("more cells than the header has"))
        dataset = dataset.remove_columns([column for column in form.unnamed if column in dataset.column_names])
        dataset, commas = mended_cells(dataset, form)
    odd = sorted({encoding for encoding in encodings.values() if encoding != UTF_8})
    notes = form.notes(commas) if form is not None else (f"guessed: encoding {', '.join(odd)}",) if odd else ()
    return _sliced(RawSource(name=name, dataset=dataset, key=key, files=tuple(files), notes=notes), split)


def _open_saved(name: str, folder: Path, split: str) -> RawSource:
    wanted = _split_name(name, split)
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"cannot be read as a saved data set ({reason})", file=folder) from error
    if isinstance(dataset, datasets.DatasetDict):
        if wanted not in dataset:
            raise _no_split(name, wanted, dataset)
        dataset = dataset[wanted]
    if len(dataset) == 0:
        raise InputError("the data set holds no rows", file=folder)
    files = [Path(entry["filename"]) for entry in dataset.cache_files]
    return _sliced(RawSource(name=name, dataset=dataset, key=_content_key(files)), split)


def _open_hub(path: str, split: str, name: str | None, revision: str | None) -> RawSource:
    try:
        with quiet_datasets(), from_hub(path, "data set", kind="dataset", revision=revision):
            try:
                dataset = datasets.load_dataset(path, name, split=split, revision=revision)
            except _OF_DATASETS as error:
                if (missing := _not_in_repository(path, split, name, revision)) is not None:
                    raise missing from error
                raise
    except InputError:
        raise
    except _OF_DATASETS as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"cannot be loaded from the hub: {reason}",
            file=path,
            hint=f"check `split` and `name`; or get its files with `hf download {path} --repo-type dataset`, and "
            "name the one to read",
        ) from error
    return RawSource(name=path, dataset=dataset, key=digest([dataset._fingerprint]))


def _not_in_repository(path: str, split: str, name: str | None, revision: str | None) -> InputError | None:
    """Return the error for a configuration or a split that a data set of the hub does not have, if that is it."""
    try:
        names = datasets.get_dataset_config_names(path, revision=revision)
        if name not in names and not (name is None and ("default" in names or len(names) == 1)):
            problem = "it has several configurations" if name is None else f"there is no configuration {name!r}"
            return InputError(problem, file=path, hint=f"set `name` to one of {', '.join(names)}")
        splits = datasets.get_dataset_split_names(path, name, revision=revision)
    except _OF_DATASETS:
        return None
    wanted = _split_name(path, split)
    return None if wanted in splits else _no_split(path, wanted, splits)


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """Return the files of one split of a folder, by the naming rules of the datasets library."""
    try:
        patterns = {str(key): value for key, value in get_data_patterns(str(folder)).items()}
    except FileNotFoundError:
        patterns = {}
    found = {
        key: sorted(
            Path(file)
            for file in DataFilesList.from_patterns(value, base_path=str(folder), allowed_extensions=None)
            if _ending(Path(file)) is not None
        )
        for key, value in patterns.items()
    }
    found = {key: files for key, files in found.items() if files}
    if not found:
        raise InputError("the folder holds no data files", file=folder, hint=f"readable are {', '.join(FORMATS)}")
    wanted = _split_name(str(folder), split)
    if wanted not in found:
        raise _no_split(str(folder), wanted, found)
    return found[wanted]


def _sliced(source: RawSource, split: str) -> RawSource:
    match = _SPLIT.fullmatch(split)
    if match is None or match["slice"] is None:
        return source
    try:
        parts = datasets.ReadInstruction.from_spec(f"train{match['slice']}").to_absolute(
            {"train": len(source.dataset)}
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"split {split!r}: {error}", file=source.name) from error
    rows = [row for part in parts for row in range(part.from_, part.to)]
    if not rows:
        raise InputError(f"split {split!r} holds no rows of {len(source.dataset):,}", file=source.name)
    return RawSource(
        name=source.name,
        dataset=source.dataset.select(rows),
        key=digest([source.key, split]),
        files=source.files,
        row_index=rows,
        whole_rows=len(source.dataset),
        notes=source.notes,
    )


def _split_name(source: str, split: str) -> str:
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise InputError(f"split {split!r} is not understood", file=source, hint="write it as train or train[:1000]")
    return match["name"]


def _no_split(source: str, wanted: str, known: Iterable[str]) -> InputError:
    return InputError(f"there is no split {wanted!r}", file=source, hint=f"set `split` to one of {', '.join(known)}")


def _ending(file: Path) -> str | None:
    # The longest first, or .jsonl.gz would have no format.
    return next((end for end in sorted(FORMATS, key=len, reverse=True) if file.name.lower().endswith(end)), None)


def _content_key(files: Sequence[Path]) -> str:
    def chunks() -> Iterator[bytes | str]:
        for file in files:
            yield file.name
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    yield chunk

    return digest(chunks())


def _in_utf8(file: Path, encoding: str, folder: Path) -> Path:
    """Return a file of JSON in UTF-8: itself, or a copy in `folder`, as the library splits it at bytes."""
    if encoding == UTF_8:
        return file
    copy = folder / f"{digest([str(file)])}.jsonl"
    with (
        open_lines(file, encoding) as given,
        atomic_path(copy) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        shutil.copyfileobj(given, stream)
    return copy


def _common_form(files: Sequence[Path]) -> CsvForm:
    first, *others = (csv_form(file) for file in files)
    for file, form in zip(files[1:], others, strict=True):
        if form != first:
            raise InputError(
                f"its header, separator or encoding differs from that of {files[0]}",
                file=file,
                hint="write the files alike, or give them as separate sources",
            )
    return first


def _csv_options(form: CsvForm) -> dict[str, Any]:
    # Every cell as text: guessed types turn the answer "42" into a number and "None" into nothing.
    return {
        "features": datasets.Features({column: datasets.Value("string") for column in form.columns}),
        "names": list(form.columns),
        "header": 0,
        "keep_default_na": False,
        "encoding": form.encoding,
        "sep": form.separator,
        "skipinitialspace": form.spaced,
    }
