from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixdpo.common import table_files, text_limits
from mixdpo.common.errors import InputError
from mixdpo.common.settings import read_yaml
from mixdpo.common.table_files import read_table
from mixdpo.data.sources import open_source
from mixdpo.generation.prompts import read_prompts


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


def test_texts_and_lines_without_end_are_one_line(tmp_path, monkeypatch, refused) -> None:
    monkeypatch.setattr(text_limits, "LONGEST_TEXT", 100)
    monkeypatch.setattr(table_files, "LONGEST_LINE", 1000)
    long = tmp_path / "long.jsonl"
    rows = [{"prompt": "short"}, {"prompt": [{"role": "user", "content": "x" * 101}]}]
    long.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    refused(lambda: read_table(long), "long.jsonl, row 2, column 'prompt'", "101 characters", "at most 100")
    long.write_text('{"prompt": "short"}\n{"prompt": "' + "x" * 1000 + '"}\n')
    refused(lambda: read_table(long), "long.jsonl, row 2", "the line has")
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[1:]), tmp_path / "set" / "train.parquet")
    refused(lambda: read_prompts(tmp_path / "set"), "row 1, column 'prompt'", "101 characters")


def test_deep_nesting_is_one_line(tmp_path, refused) -> None:
    kind, value = pa.string(), "x"
    for _ in range(300):
        kind, value = pa.list_(kind), [value]
    deep = tmp_path / "deep.parquet"
    pq.write_table(pa.table({"prompt": pa.array([value], kind)}), deep)
    refused(lambda: read_table(deep), "deep.parquet: cannot be read")
    refused(lambda: open_source(str(deep)), "deep.parquet: broken parquet file (")  # how, is Arrow's word
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: " + "[" * 20_000)
    refused(lambda: read_yaml(recipe), "recipe.yaml: not valid YAML: nested too deeply")


def test_a_url_with_a_password_is_shown_without(refused) -> None:
    for place in ("https://user:secret@host/data.parquet", Path("https://user:secret@host/data.parquet")):
        message = str(refused(lambda place=place: read_table(place), "no such file", "https://host/"))
        assert "secret" not in message
