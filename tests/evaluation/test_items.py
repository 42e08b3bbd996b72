from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mixdpo.common.table_files import TableFile, read_table
from mixdpo.evaluation.items import SCHEMA, ModelItems, Transcript, read_items, write_items


def test_items_are_read_as_they_were_written(tmp_path: Path) -> None:
    own = ModelItems(
        {"win_rate": {"b": 50.0, "a": math.nan}, "rating": {"a": 3.0}},
        {"a": Transcript("Why?", "So."), "c": Transcript(verdict="game 1: None")},
        {"a": "task"},
        {"b": 4.0},
    )
    write_items(tmp_path / "items.parquet", {"own": own, "other": ModelItems({"rating": {"x": 1.0}})})
    assert pq.read_schema(tmp_path / "items.parquet") == SCHEMA
    found = read_items(read_table(tmp_path / "items.parquet"))
    assert list(found) == ["own", "other"]
    scores = {
        metric: {id: one for id, one in by_id.items() if one == one} for metric, by_id in found["own"].scores.items()
    }
    assert scores == {"win_rate": {"b": 50.0}, "rating": {"a": 3.0}}
    assert list(found["own"].scores["win_rate"]) == ["b", "a", "c"], "what has no score can still be read"
    assert (found["own"].transcripts, found["own"].groups, found["own"].weights) == (
        own.transcripts, own.groups, own.weights
    )  # fmt: skip
    write_items(tmp_path / "none.parquet", {})
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_a_table_of_ones_own_needs_four_columns() -> None:
    columns = {"model": ["m", "m"], "metric": ["x", "x"], "id": [1, 2], "score": [0.5, None]}
    found = read_items(TableFile(columns, "own.csv"))["m"]
    assert found.independent("x") == {"1": 0.5}


def test_items_of_a_group_count_once_by_their_weights() -> None:
    scores = {"x": {"a": 1.0, "b": 4.0, "c": 2.0, "d": math.nan}}
    items = ModelItems(scores, groups={"a": "t", "b": "t", "d": "t"}, weights={"b": 2.0})
    assert items.independent("x") == {"c": 2.0, "t": pytest.approx(3.0)}
