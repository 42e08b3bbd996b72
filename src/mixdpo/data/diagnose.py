"""Where in a file the trouble is: the first row that cannot be read.

Only read when something is wrong, so these are plain passes over the file, one per format.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.json_text import misfit, parse_json, too_deep_at
from mixdpo.common.text_limits import LONGEST_LINE, line_too_long
from mixdpo.data.csv_form import UTF_8, UTF_16, CsvForm, csv_form, find_encoding, open_csv, open_lines
from mixdpo.data.messages import kind_of

_CHUNK: Final = 1 << 22
_DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def diagnose(files: Sequence[Path], error: BaseException) -> InputError:
    """Return what is wrong with `files`, which the library could not read because of `error`."""
    for file in files:
        kind = kind_of_file(file)
        finder = {"json": _json_fault, "csv": _csv_fault, "parquet": _parquet_fault}.get(kind)
        fault = finder(file) if finder is not None else None
        if fault is None and kind == "parquet":
            fault = _other_columns(files[0], file)
        if fault is not None:
            return fault
    cause = error.__cause__ or error
    reason = str(cause).strip().split("\n")[0] or type(cause).__name__
    return InputError(f"cannot be read ({reason})", file=files[0])


def find_stray_type(files: Sequence[Path], columns: Container[str]) -> InputError | None:
    """Return the first value in these columns of JSON files that is not text.

    Needed where the library took the types from an earlier part of the data: it turns what follows into text.
    """
    for file in files:
        for row, item in json_rows(file):
            for column, value in item.items():
                if column in columns and not isinstance(value, str) and value is not None:
                    return InputError(
                        f"the value is {kind_of(value)}, not text as in the rows before",
                        file=file,
                        row=row,
                        column=column,
                        hint="fix or delete the row",
                    )
    return None


def kind_of_file(file: Path) -> str:
    """Return the format that a file's name says: json, csv, parquet or arrow."""
    name = file.name.lower().removesuffix(".gz")
    return {"jsonl": "json", "ndjson": "json", "tsv": "csv"}.get(ending := name.rpartition(".")[2], ending)


def check_json(file: Path, given: Path) -> None:
    """Look at JSON lines or a JSON list in UTF-8 before they are parsed; `given`: what messages call the file.

    Raises:
        json.JSONDecodeError: it is nested too deeply for its reader; `diagnose` says where.
        InputError: a line is too long to be a row.
    """
    is_list = is_json_list(file)
    with open_file(file) as stream:
        pieces = [stream.read()] if is_list else iter(lambda: stream.readline(LONGEST_LINE + 1), b"")
        for row, piece in enumerate(pieces, start=1):
            if len(piece) > LONGEST_LINE and not is_list:
                size = len(piece) + sum(map(len, _rest_of_line(stream)))
                raise InputError(line_too_long(size), file=given, row=row, hint="write one row a line, or delete it")
            if too_deep_at(piece) is not None:
                raise json.JSONDecodeError("nested too deeply", "", 0)


def _rest_of_line(stream: IO[bytes]) -> Iterator[bytes]:
    while part := stream.readline(_CHUNK):
        yield part
        if part.endswith(b"\n"):
            return


def open_file(file: Path) -> IO[bytes]:
    """Open a file, also a compressed one, for its bytes."""
    opener: Any = gzip.open if file.suffix.lower() == ".gz" else open
    return opener(file, "rb")


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, in UTF-8, with their numbers from 1."""
    encoding = find_encoding(file)
    if encoding != UTF_8:
        with open_lines(file, encoding) as stream:
            yield from ((number, text.encode()) for number, text in enumerate(stream, start=1) if text.strip())
        return
    with open_file(file) as raw:
        for number, line in enumerate(raw, start=1):
            said = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if said.strip():
                yield number, said


def json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of JSON lines or of a JSON list, with their rows from 1."""
    if is_json_list(file):
        yield from enumerate(_json_list(file), start=1)
    else:
        yield from ((number, parse_json(line)) for number, line in lines(file))


def csv_records(file: Path, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV file, its header first, with the lines from 1 that they start on."""
    form = csv_form(file)
    with open_csv(file, form.encoding) as stream:
        reader = csv.reader(stream, strict=strict, delimiter=form.separator, skipinitialspace=form.spaced)
        start = 1
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1


def is_json_list(file: Path) -> bool:
    """Whether a JSON file holds one list, not an object a line."""
    with open_file(file) as stream:
        begin = stream.read(4096)
    if begin[:2] in UTF_16:
        begin = begin.decode("utf-16", errors="ignore").encode()
    return begin.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def _json_list(file: Path) -> Any:
    with open_lines(file, find_encoding(file)) as stream:
        return parse_json(stream.read())


def _json_fault(file: Path) -> InputError | None:
    row = 0
    try:
        if is_json_list(file):
            return _json_list_fault(file, _json_list(file))
        for row, line in lines(file):
            said = line.rstrip()  # errors at the end count its characters
            if not isinstance(parse_json(said), dict):
                return InputError("the line is not a JSON object", file=file, row=row)
            if (fault := misfit(said)) is not None:
                return InputError(f"the line holds {fault}", file=file, row=row, hint="fix or delete it")
    except json.JSONDecodeError as error:
        at_row = row or error.lineno
        return InputError(
            f"not valid JSON ({error.msg} at character {error.colno})", file=file, row=at_row, hint="fix or delete it"
        )
    except UnicodeDecodeError as error:
        return InputError(f"not UTF-8 ({error.reason})", file=file, row=row or None, hint="save the file as UTF-8")
    except _DAMAGED_GZIP as error:
        return InputError(f"the compressed file is damaged ({error})", file=file, row=row + 1)
    return None if row else InputError("the file holds no rows", file=file)


def _json_list_fault(file: Path, items: list[Any]) -> InputError | None:
    if not items:
        return InputError("the file holds no rows", file=file)
    for row, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            return InputError(f"the list's element is {type(item).__name__}, not an object", file=file, row=row)
    return None


def _csv_fault(file: Path) -> InputError | None:
    records = number = 0
    form: CsvForm | None = None
    try:
        for number, record in csv_records(file):
            records += 1
            form = form or csv_form(file)
            width = len(form.columns) - form.spare
            if len(record) > width and any(cell.strip() or not form.spare for cell in record[width:]):
                return InputError(
                    f"{len(record)} cells where the header has {width}",
                    file=file,
                    row=number,
                    hint="separate columns by commas, semicolons, tabs or bars"
                    if width == 1
                    else f'put cells that hold {_named(form.separator)} or a line break in "quotes"',
                )
    except csv.Error as error:
        hint = 'end the cell that begins with a quote by one, and write a quote within it as ""'
        return InputError(f"broken CSV ({error})", file=file, row=number + 1, hint=hint)
    except UnicodeDecodeError as error:
        encoding = csv_form(file).encoding
        row, name = _undecodable_line(file, encoding) or number + 1, encoding.removesuffix("-sig").upper()
        return InputError(f"not {name} ({error.reason})", file=file, row=row, hint="save the file as UTF-8")
    except _DAMAGED_GZIP as error:
        return InputError(f"the compressed file is damaged ({error})", file=file, row=number + 1)
    return None if records > 1 else InputError("the file holds no rows", file=file)


def _named(separator: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(separator, "a bar")


def _undecodable_line(file: Path, encoding: str) -> int | None:
    """Return the number of the first line that cannot be decoded; readers decode far ahead of the record they give."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_file(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                decoder.decode(line)
            except UnicodeDecodeError:
                return number
    return None


def _parquet_fault(file: Path) -> InputError | None:
    hint = "copy or download it again"
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        return InputError(f"broken parquet file ({_first_sentence(error)})", file=file, hint=hint)
    start = 1
    for group in range(table.num_row_groups):
        try:
            table.read_row_group(group)
        except (pa.ArrowException, OSError) as error:
            return InputError(f"broken parquet file ({_first_sentence(error)})", file=file, row=start, hint=hint)
        start += table.metadata.row_group(group).num_rows
    return InputError("the file holds no rows", file=file) if start == 1 else None


def _other_columns(first: Path, file: Path) -> InputError | None:
    """Return an error if a parquet file has other columns or types than the first one of its source."""
    expected, found = pq.read_schema(first), pq.read_schema(file)
    for name in dict.fromkeys([*expected.names, *found.names]):
        kinds = [schema.field(name).type if name in schema.names else "absent" for schema in (expected, found)]
        if kinds[0] != kinds[1]:
            return InputError(
                f"the column is {kinds[1]} here and {kinds[0]} in {first}",
                file=file,
                column=name,
                hint="write the files with the same columns, or give them as separate sources",
            )
    return None


def _first_sentence(error: BaseException) -> str:
    return re.split(r"[.:]\s", str(error).strip(), maxsplit=1)[0].rstrip(".") or type(error).__name__
