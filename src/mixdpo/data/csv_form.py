"""How a CSV file is written: its encoding, its separator and its columns, as far as its beginning shows them."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

from mixdpo.common.errors import InputError

UNNAMED: Final = "Unnamed: "
"""How a column without a name is called, as pandas does."""

LONGEST_CELL: Final = 2**31 - 1  # characters; the module's own limit is 128 Ki

_SEPARATORS: Final = (",", ";", "\t", "|")
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF_8: Final = "utf-8-sig"
_FIRST_ROW_NAMES: Final = ("0", "1")
"""What R, which gives no name to its row names and no cell for it either, writes before the first record."""
_SEPARATOR_LINE: Final = re.compile(r"sep=.?")
_UNDEFINED: Final = frozenset(b"\x81\x8d\x8f\x90\x9d")
"""Bytes that are nothing in cp1252."""
_CHUNK: Final = 1 << 22
_ACCENTS: Final = 2
"""Characters beyond ASCII that follow one another in a Western text, as in "größer", but for few."""


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file is written.

    Attributes:
        encoding: for Python.
        separator: what stands between two cells.
        columns: names of the cells of a record; those without one have `UNNAMED` and their position.
        spaced: whether a space follows each separator.
        padded: whether a space stands before each separator, too, in the header.
        expected: the separator that the ending of the file's name says.
        spare: whether the last column is not in the header: a separator ends the records alone.
        overfull: whether the first record has more cells than there are columns.
    """

    encoding: str
    separator: str
    columns: tuple[str, ...]
    spaced: bool
    expected: str
    spare: bool
    overfull: bool
    padded: bool = False

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The columns without a name, such as an index that pandas wrote."""
        return tuple(name for name in self.columns if name.startswith(UNNAMED))

    def notes(self, decimal_commas: Sequence[str] = ()) -> tuple[str, ...]:
        """Say what was guessed, for a person; `decimal_commas`: the columns of numbers that have them."""
        guessed = [f"encoding {self.encoding}"] if self.encoding != UTF_8 else []
        guessed += [f"separator {self.separator!r}"] if self.separator != self.expected else []
        if self.spaced:
            guessed.append("spaces around each separator" if self.padded else "a space after each separator")
        guessed += [f"column {self.columns.index(name) + 1} has no name and is left out" for name in self.unnamed]
        guessed += [f"decimal commas in {', '.join(decimal_commas)}"] if decimal_commas else []
        return (f"guessed: {', '.join(guessed)}",) if guessed else ()


def csv_form(file: Path) -> CsvForm:
    """Find out how a CSV file is written.

    The encoding is that of its byte order mark, else UTF-8, else (if nothing in it is UTF-8 beyond ASCII) Windows'
    cp1252. The separator is the one that its header has most of; a tie goes to that of its name.

    Raises:
        InputError: two columns have one name.
    """
    encoding = find_encoding(file)
    expected = "\t" if ".tsv" in file.suffixes[-2:] or file.suffix.lower() == ".tsv" else ","
    try:
        records = {sep: _first_records(file, encoding, sep) for sep in _SEPARATORS}
    # What is broken is told where the whole file is read.
    except (UnicodeError, csv.Error, OSError, EOFError):
        records = dict.fromkeys(_SEPARATORS, ([], []))
    separator = max(_SEPARATORS, key=lambda sep: (len(records[sep][0]), sep == expected))
    header, first = records[separator]
    if header and _SEPARATOR_LINE.fullmatch("".join(header)):
        raise InputError("the first line is one for Excel, not a header", file=file, row=1, hint="delete it")
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    columns = [name.lstrip(" ") if spaced else name for name in header]
    padded = spaced and all(name.endswith(" ") for name in header[:-1])
    columns = [name.strip(" ") if padded else name for name in columns]
    columns = [name if name.strip() else f"{UNNAMED}{at}" for at, name in enumerate(columns)]
    spare = len(first) == len(columns) + 1 and not first[-1].strip()
    if spare:
        columns.append(f"{UNNAMED}{len(columns)}")
    elif len(first) == len(columns) + 1 and first[0] in _FIRST_ROW_NAMES:
        columns.insert(0, f"{UNNAMED}0")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InputError("two columns have this name", file=file, row=1, column=twice, hint="rename one of them")
    return CsvForm(encoding, separator, tuple(columns), spaced, expected, spare, len(first) > len(columns), padded)


def open_csv(file: Path, encoding: str) -> IO[str]:
    """Open a CSV file, also a compressed one, as the module `csv` wants it."""
    return TextIOWrapper(_open(file), encoding=encoding, newline="")


def open_lines(file: Path, encoding: str) -> IO[str]:
    """Open a text file, also a compressed one, whose lines end at a line feed and nowhere else."""
    return TextIOWrapper(_open(file), encoding=encoding, newline="\n")


def find_encoding(file: Path) -> str:
    """Return the encoding of a text file, compressed or not; UTF-8 for one that is broken."""
    try:
        with _open(file) as stream:
            if stream.read(2) in UTF_16:
                return "utf-16"
        return UTF_8 if _is_utf8(file) else _windows(file)
    except (OSError, EOFError, zlib.error):
        return UTF_8


def _is_utf8(file: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open(file) as stream:
        try:
            while chunk := stream.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _windows(file: Path) -> str:
    """Return the encoding of a file that is not UTF-8; UTF-8 with a broken character stays UTF-8.

    Raises:
        InputError: its words consist of characters beyond ASCII, so that it is no Western text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    undefined = False
    beyond = in_words = 0
    with _open(file) as stream:
        while chunk := stream.read(_CHUNK):
            text = decoder.decode(chunk)
            if any(ord(char) > 127 and not "\udc80" <= char <= "\udcff" for char in set(text)):
                return UTF_8
            undefined = undefined or not _UNDEFINED.isdisjoint(chunk)
            runs = list(map(len, re.findall(rb"[\x80-\xff]+", chunk)))
            beyond, in_words = beyond + sum(runs), in_words + sum(run for run in runs if run > _ACCENTS)
    if in_words > beyond / 2:
        raise InputError(
            "neither UTF-8 nor the encoding of a Western Windows (cp1252): whole words are beyond ASCII",
            file=file,
            hint='save the file as UTF-8 (in a spreadsheet "CSV UTF-8")',
        )
    return "latin-1" if undefined else "cp1252"


def _first_records(file: Path, encoding: str, separator: str) -> tuple[list[str], list[str]]:
    """Return the cells of the header and of the first record."""
    csv.field_size_limit(LONGEST_CELL)
    with open_csv(file, encoding) as stream:
        head = next((line for line in stream if line.strip()), "")
        spaced = next(csv.reader(StringIO(head), delimiter=separator), [])[1:]
        skip = bool(spaced) and all(name.startswith(" ") for name in spaced)
        reader = csv.reader(chain([head], stream), delimiter=separator, skipinitialspace=skip)
        header = next(reader, [])
        first = next((record for record in reader if record), [])
    return (next(csv.reader(StringIO(head), delimiter=separator), header) if skip else header), first


def _open(file: Path) -> IO[bytes]:
    opener: Any = gzip.open if file.suffix.lower() == ".gz" else open
    return opener(file, "rb")
