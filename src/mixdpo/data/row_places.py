"""Where rows stand in their files: the row from 1, as an editor or a viewer of tables shows it.

In text formats a row is the line it starts on, so that blank lines, a CSV header and cells of several lines count as
they do in an editor. In a JSON list it is the element, in parquet and Arrow the row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from mixdpo.data.csv_form import find_encoding, open_csv
from mixdpo.data.diagnose import csv_records, is_json_list, json_rows, kind_of_file, lines, open_file

_CHUNK: Final = 1 << 22


@dataclass(frozen=True, eq=False)
class RowPlaces:
    """The places of N rows.

    Attributes:
        files: names of the files, or of what was read instead of files.
        file: index in `files` of each row, int32, shape (N,).
        number: row in its file, from 1; int64, shape (N,).
    """

    files: tuple[str, ...]
    file: np.ndarray
    number: np.ndarray

    def __getitem__(self, row: int) -> tuple[str, int]:
        return self.files[self.file[row]], int(self.number[row])

    def taken(self, rows: Sequence[int]) -> RowPlaces:
        """Return the places of some of the rows."""
        wanted = np.asarray(rows, dtype=np.int64)
        return RowPlaces(self.files, self.file[wanted], self.number[wanted])


def places_in_table(name: str, rows: int) -> RowPlaces:
    """Return the places of the rows of one table."""
    return RowPlaces((name,), np.zeros(rows, dtype=np.int32), np.arange(1, rows + 1, dtype=np.int64))


def places_in_files(name: str, files: Sequence[Path], rows: int) -> RowPlaces:
    """Return the places of the joined rows of the files of a source, which are of one format."""
    numbers = [_row_numbers(file, rows if len(files) == 1 else None) for file in files]
    joined = np.concatenate(numbers)
    if len(joined) != rows:  # the reader of the library is more lenient than we are
        return places_in_table(str(files[0]) if len(files) == 1 else name, rows)
    index = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in numbers])
    return RowPlaces(tuple(map(str, files)), index, joined)


def _row_numbers(file: Path, rows: int | None) -> np.ndarray:
    """Return the rows of a file, int64; `rows`: how many there are, where that is known."""
    kind = kind_of_file(file)
    if kind == "parquet":
        count = pq.ParquetFile(file).metadata.num_rows if rows is None else rows
        return _first(count)
    if kind == "arrow":
        return _first(len(Dataset.from_file(str(file))) if rows is None else rows)
    if kind == "csv":
        if rows is not None and _line_count(file) == rows + 1:
            return _first(rows) + 1  # below the header, one line each
        # As lenient as the reader of the library, which took these records.
        return np.fromiter((number for number, _ in csv_records(file, strict=False)), dtype=np.int64)[1:]
    if is_json_list(file):
        return _first(sum(1 for _ in json_rows(file)) if rows is None else rows)
    if rows is not None and _line_count(file) == rows:
        return _first(rows)
    return np.fromiter((number for number, _ in lines(file)), dtype=np.int64)


def _first(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.int64)


def _line_count(file: Path) -> int:
    """Return the lines of a text file, also of one whose last line is not ended."""
    encoding = find_encoding(file)
    if encoding == "utf-16":
        with open_csv(file, encoding) as stream:
            return sum(1 for _ in stream)
    count, last = 0, b"\n"
    with open_file(file) as stream:
        while chunk := stream.read(_CHUNK):
            count, last = count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")
