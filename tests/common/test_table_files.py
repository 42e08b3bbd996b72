from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table


def test_tables_with_line_breaks_and_cut_files(tmp_path: Path) -> None:
    rows = [("one\n" * 50, "x" * 500)] * 3000  # more than a block of Arrow's reader
    with (tmp_path / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "answer"), *rows])
    assert read_table(tmp_path / "long.csv").columns["prompt"] == [row[0] for row in rows]
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for name, content in (("cut.jsonl.gz", whole[:-20]), ("spoilt.jsonl.gz", whole[:12] + b"\xff" * 9 + whole[21:])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_table(tmp_path / name)


def test_rows_are_those_of_the_file(tmp_path: Path) -> None:
    files = {
        "lines.jsonl": ('{"a": 1}\n\n{"a": "x"}\n', 3),
        "cells.csv": ('a,b\n1,"two\nlines"\n\nx,y\n', 5),
        "list.json": ('[{"a": 1},\n\n{"a": "x"}]', 2),
    }
    for name, (text, row) in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}, row {row}, column 'a': not a number: 'x'"):
            read_table(tmp_path / name).numbers("a")


@pytest.mark.parametrize("levels", [1000, 100_000])
def test_json_nested_too_deeply_is_one_line(levels: int, tmp_path: Path) -> None:
    deep = '{"a": ' * levels + "1" + "}" * levels
    for name, content in (("a.jsonl", f'{{"a": 1}}\n{deep}\n'), ("a.json", f'[{{"a": 1}},\n{deep}]')):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=rf"{name}, row 2: not valid JSON: nested more than 200 levels deep"):
            read_table(tmp_path / name)
