"""CSV files of any separator, encoding and header are read, what was guessed is said, broken ones are one line."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs

TABLE = "prompt,chosen,rejected\nWie heißt er?,gut,schlecht\nb,c,d\n"
SIDES = {"prompt": ["Wie heißt er?", "b"], "chosen": ["gut", "c"], "rejected": ["schlecht", "d"]}


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".tsv.gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separators_and_encodings(ending: str, separator: str, encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{ending}", TABLE.replace(",", separator).encode(encoding))
    pairs, report = read_pairs(DataSettings(path=path))
    assert {name: pairs[name][:] for name in SIDES} == SIDES
    said = " ".join(report.sources[0].notes)
    assert (f"separator {separator!r}" in said) is (separator != ("\t" if "tsv" in ending else ","))
    assert (f"encoding {encoding}" in said) is (not encoding.startswith("utf-8"))


HEADERS: dict[str, str] = {
    "index of pandas": ",prompt,chosen,rejected\n0,q,a,b\n",
    "a comma at the end": "prompt,chosen,rejected,\nq,a,b,\n",
    "a comma at the end of rows": "prompt,chosen,rejected\nq,a,b,\n",
    "row names of R": '"prompt","chosen","rejected"\n"1","q","a","b"\n',
    "spaces after commas": 'prompt, chosen, rejected\nq, "a", b\n',
    "spaces before commas": "prompt ,chosen ,rejected\nq,a,b\n",
    "other case": "Prompt,CHOSEN,Rejected\nq,a,b\n",
    "commas in cells": 'prompt;chosen;rejected\nq;a;b\n"one, two";"c, d";e\n',
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("swap", [",", ";"])
def test_headers(name: str, swap: str, tmp_path: Path) -> None:
    text = HEADERS[name] if name == "commas in cells" else HEADERS[name].replace(",", swap)
    pairs, report = read_pairs(DataSettings(path=write(tmp_path / "a.csv", text.encode())))
    assert [pairs[0][side] for side in SIDES] == ["q", "a", "b"]
    assert report.sources[0].unread_columns == ()
    assert report.sources[0].notes


def test_what_pandas_writes_of_messages(tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": 'It\'s "Q"\n?'}, {"role": "assistant", "content": text}] for text in "ab"]
    for number, wrap in enumerate((list, lambda talk: np.array(talk, dtype=object))):
        table = pd.DataFrame({"chosen": [wrap(talks[0])], "rejected": [wrap(talks[1])]})
        table.to_csv(tmp_path / f"{number}.csv")
        pairs = load_pairs(tmp_path / f"{number}.csv")
        assert [pairs[0][side] for side in SIDES] == [talks[0][:1], talks[0][1:], talks[1][1:]]


BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "a broken character late": (TABLE.encode() * 400 + b"x,\xff,y\n", ["row 1201", "UTF-8"]),
    "cells too many": (b"prompt;chosen;rejected\nq;a;b\nq;a;b;c\n", ["row 3", "4 cells where the header has 3"]),
    "cells too many at once": (
        b"prompt,chosen,rejected\nq,a,b,c\nq,a,b\n",
        ["row 2", "4 cells where the header has 3"],
    ),
    "a cell behind the last comma": (b"prompt,chosen,rejected\nq,a,b,\nq, r,a,b\n", ["row 3", "4 cells"]),
    "a line for Excel": (b"sep=;\nprompt;chosen;rejected\nq;a;b\n", ["row 1", "delete it"]),
    "one name twice": (b"prompt,chosen,chosen\nq,a,b\n", ["row 1", "'chosen'", "two columns"]),
    "half of UTF-16": (codecs.BOM_UTF16_LE + TABLE.encode("utf-16-le")[:-1], ["not UTF-16"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_one_line(case: str, tmp_path: Path, refused: Any) -> None:
    content, words = BROKEN[case]
    path = write(tmp_path / "a.csv", content)
    refused(lambda: load_pairs(path), path, *words)


def test_spaces_around_every_separator_are_none_of_the_cells(tmp_path: Path) -> None:
    columns = (["Why so?", "Why not?"], ["yes", "x y"], ["no", "z"])
    aligned = "prompt   | chosen | rejected\nWhy so?  | yes    | no\nWhy not? | x y    | z\n"
    pairs, report = read_pairs(DataSettings(path=write(tmp_path / "a.csv", aligned.encode())))
    assert tuple(pairs[name][:] for name in ("prompt", "chosen", "rejected")) == columns
    assert any("spaces around each separator" in note for note in report.sources[0].notes)
    once = load_pairs(write(tmp_path / "b.csv", aligned.replace("yes    |", "yes|").encode()))
    assert once["prompt"][:] == ["Why so?  ", "Why not? "], "they may be the text's where a cell has none"


def test_files_that_are_written_differently_are_not_joined(tmp_path: Path, refused: Any) -> None:
    write(tmp_path / "1.csv", TABLE.encode())
    write(tmp_path / "2.csv", TABLE.replace(",", ";").encode())
    refused(lambda: load_pairs(str(tmp_path / "*.csv")), "2.csv", "differs", "separate sources")


def test_rows_of_any_form_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'prompt;chosen;rejected\n"two\nlines";a;b\nq;a;a\n'.encode("utf-16"))
    pairs, report = read_pairs(DataSettings(path=path))
    assert report.sources[0].dropped_rows == {"identical_completions": ["4"]}
    assert pairs["source_row"][:] == [2]
