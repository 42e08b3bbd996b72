"""Rows that are in memory are the same pairs as in a file, and pairs know the row they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset, IterableDataset

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs

FORMS: dict[str, Any] = {
    "list": lambda rows: rows,
    "generator": iter,
    "function": lambda rows: lambda: (row for row in rows),
    "dict of lists": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "dict of arrays": lambda rows: {name: np.array([row[name] for row in rows]) for name in rows[0]},
    "pandas": pd.DataFrame,
    "pandas with an index": lambda rows: pd.DataFrame(rows, index=[7, 8, 9]),
    "polars": pl.DataFrame,
    "pyarrow": pa.Table.from_pylist,
    "datasets": Dataset.from_list,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_is_read(form: str, text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    assert load_pairs(FORMS[form](text_rows))[:] == load_pairs(jsonl(text_rows))[:]


@pytest.mark.parametrize("form", ["list", "generator", "pandas", "polars", "pyarrow"])
def test_every_form_holds_messages(form: str, chat_rows: list[dict[str, Any]], jsonl: Any) -> None:
    assert load_pairs(FORMS[form](chat_rows))["pair_id"][:] == load_pairs(jsonl(chat_rows))["pair_id"][:]


def test_paths_are_read_wherever_they_stand(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    path = Path(jsonl(text_rows))
    expected = load_pairs(str(path))
    for source in (path, [path], {"path": path}, [{"path": path, "weight": 1}]):
        assert load_pairs(source)["pair_id"][:] == expected["pair_id"][:]


def test_a_column_named_path_is_a_column() -> None:
    assert load_pairs([{"path": "a.png", "prompt": "p", "chosen": "a", "rejected": "b"}])[0]["prompt"] == "p"


def test_keys_that_come_up_late_are_read() -> None:
    rows: list[dict[str, Any]] = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 2
    rows[1] = {**rows[1], "score_chosen": 2, "score_rejected": 1.5}
    assert load_pairs(rows, invalid_scores="drop")["score_rejected"][:] == [1.5]


def test_what_is_not_read_is_one_line(text_rows: list[dict[str, Any]], refused: Any) -> None:
    streamed = IterableDataset.from_generator(lambda: iter(text_rows))
    refused(lambda: load_pairs(streamed), "streamed", "without streaming=True")
    refused(lambda: load_pairs(pl.DataFrame(text_rows).lazy()), "LazyFrame", "list of dicts")
    refused(lambda: load_pairs(5), "a number", "give a path")
    refused(lambda: load_pairs(text_rows, name="default"), "the data set", "'default'", "leave `name` out")
    refused(lambda: load_pairs(None), "null")
    refused(lambda: load_pairs(iter([])), "no rows")
    refused(lambda: load_pairs(iter([text_rows[0], "text"])), "row 2", "text, not an object")
    refused(lambda: load_pairs({"chosen": ["a"], "rejected": ["a", "b"]}), "differ in length", "rejected: 2")
    odd = [text_rows[0], {**text_rows[1], "chosen": 5}]
    refused(lambda: load_pairs(odd), "the data set, row 2, column 'chosen'", "a number")


def test_pairs_know_the_row_of_their_file(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    dropped = {**text_rows[0], "chosen": " "}
    first, second = (
        jsonl([dropped, *text_rows], "1.jsonl"),
        jsonl([text_rows[0], "", dropped, text_rows[2]], "2.jsonl"),
    )
    settings = DataSettings(path=[first, {"path": second, "weight": 2}], max_pairs=5)
    pairs, _ = read_pairs(settings)
    places = list(zip(pairs["source_file"], pairs["source_row"], strict=True))
    expected = {(first, 2): "Four.", (first, 3): "Red.", (first, 4): "Rex.", (second, 1): "Four.", (second, 4): "Rex."}
    assert [expected[place] for place in places] == pairs["chosen"][:]
    sliced = load_pairs(first, split="train[2:]")
    assert sliced["source_row"][:] == [3, 4]
    assert "source_file" not in sliced.column_names
    assert sliced["pair_id"][:] == load_pairs(text_rows[1:])["pair_id"][:]
