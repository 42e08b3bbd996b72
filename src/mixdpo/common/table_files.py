"""Tables of questions, answers and verdicts as people have them: parquet, CSV, JSON lines, JSON, plain or gzipped."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.common.json_text import parse_json
from mixdpo.common.text_limits import LONGEST_LINE, line_too_long, too_long

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
ENDINGS: Final = (".parquet", ".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class TableFile:
    """Columns of equal length, as Python values, and the file they came from."""

    columns: dict[str, list[Any]]
    file: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def column(self, *names: str) -> list[Any]:
        """Return the first column there is among `names`; `InputError` names the nearest one if there is none."""
        for name in names:
            if name in self.columns:
                return self.columns[name]
        near = difflib.get_close_matches(names[0], list(self.columns), n=1)
        known = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(map(repr, self.columns))}"
        raise InputError("no such column", file=self.file, column=names[0], hint=known)

    def numbers(self, *names: str) -> np.ndarray:
        """Return a column as float64, nothing as NaN; `InputError` for a value that is not a number."""
        values = self.column(*names)
        result = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            if value is None or value == "":
                continue
            try:
                result[row] = float(value)
            except (TypeError, ValueError):
                raise InputError(
                    f"not a number: {value!r}", file=self.file, row=self.row_of(row), column=names[0]
                ) from None
        return result

    def integers(self, *names: str) -> np.ndarray:
        """Return a column as int64; `InputError` for a value that is missing or not whole."""
        values = self.numbers(*names)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values))))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"not a whole number: {self.column(*names)[row]!r}",
                file=self.file,
                row=self.row_of(row),
                column=names[0],
            )
        return values.astype(np.int64)

    def texts(self, *names: str) -> list[str]:
        """Return a column of texts; `InputError` for a value that is missing or something else."""
        values = self.column(*names)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise InputError(f"not text: {value!r}", file=self.file, row=self.row_of(row), column=names[0])
        return values

    def ids(self, *names: str) -> list[str]:
        """Return a column of ids, which a file may hold as text or as whole numbers, as texts."""
        return [str(value) for value in self.column(*names)]

    def row_of(self, place: int) -> int:
        """Return where the entry at `place`, from 0, stands in the file: see `row_in_file`."""
        return row_in_file(self.file, place)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as mappings."""
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]


def read_table(path: str | Path, texts: Collection[str] = ()) -> TableFile:
    """Read a whole table.

    Args:
        path: the file.
        texts: columns of CSV that hold texts, where all of them look like numbers, too.

    Raises:
        InputError: no such file, an ending that is not known, a file that cannot be read, no rows, or a text or a
            line that is too long to be one.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError("no such file", file=path)
    if not path.name.endswith(ENDINGS):
        raise InputError("the ending is not known", file=path, hint=f"it is one of {', '.join(ENDINGS)}")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            columns = pq.read_table(path).to_pydict()
        elif name.endswith(".csv"):
            # Without the option a file of more than a block is refused where an answer has several lines.
            options = pa_csv.ParseOptions(newlines_in_values=True)
            types = pa_csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
            columns = pa_csv.read_csv(path, parse_options=options, convert_options=types).to_pydict()
        else:
            columns = _by_column(read_json_rows(path))
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path) from error
    table = TableFile(columns, str(path))
    if not len(table):
        raise InputError("the file has no rows", file=path)
    for name, values in table.columns.items():
        for place, value in enumerate(values):
            if (fault := too_long(value)) is not None:
                raise InputError(f"the value {fault}", file=path, row=table.row_of(place), column=name)
    return table


def row_in_file(path: str | Path, place: int) -> int:
    """Return the row of a file, from 1, that holds the entry at `place` of its table, from 0.

    Of CSV and JSON lines it is the line that the entry starts on, as an editor counts: blank lines and a header count.
    It is looked for only when an error needs it.
    """
    path = Path(path).expanduser()
    name = path.name.removesuffix(".gz")
    if not path.is_file() or not name.endswith((".csv", ".jsonl")):
        return place + 1
    text = _text(path)
    starts = _csv_starts(text)[1:] if name.endswith(".csv") else [number for number, _ in _json_lines(text)]
    return starts[place] if place < len(starts) else place + 1


def _csv_starts(text: str) -> list[int]:
    reader = csv.reader(io.StringIO(text, newline=""))
    starts, next_line = [], 1
    for record in reader:
        if record:
            starts.append(next_line)
        next_line = reader.line_num + 1
    return starts


def _text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def _json_lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def read_json_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON list or of JSON lines, plain or gzipped.

    Lines end at a line feed and nowhere else: U+2028 and U+0085 occur unescaped inside answers.
    """
    path = Path(path)
    text = _text(path)
    is_list = path.name.removesuffix(".gz").endswith(".json")
    pieces = [(1, text)] if is_list else _json_lines(text)
    rows: list[Any] = []
    for number, piece in pieces:
        if len(piece) > LONGEST_LINE and not is_list:
            raise InputError(line_too_long(len(piece)), file=path, row=number, hint="write one row a line")
        try:
            value = parse_json(piece)
        except json.JSONDecodeError as error:
            row = number + error.lineno - 1
            raise InputError(f"not valid JSON: {error.msg}", file=path, row=row) from error
        rows.extend(value if isinstance(value, list) else [value])
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError("not an object with named fields", file=path, row=row_in_file(path, place))
    return rows


def well_formed(text: str) -> str:
    """Return text that can be written as UTF-8: half a character, as cut replies have, becomes U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(well_formed(json.dumps(row, ensure_ascii=False)) + "\n")


def _by_column(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
