"""Columns that say how a pair is to be trained: weights, label probabilities and ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.pairs import flipped, unknown_margin
from mixdpo.pairs.spoken import spoken_pairs

TEXTS = {"prompt": "p", "chosen": "a", "rejected": "b"}
CHAT = {
    "prompt": [{"role": "user", "content": "p"}],
    "chosen": [{"role": "assistant", "content": "a"}],
    "rejected": [{"role": "assistant", "content": "b"}],
}
TRAINING = {"weight/own": 0.5, "weight/other": 2, "label_probability": 0.75, "tie": 1}


@pytest.mark.parametrize("pair", [TEXTS, CHAT], ids=["texts", "messages"])
def test_they_are_kept_and_are_no_columns_of_the_datas_own(pair: dict[str, Any], jsonl: Any) -> None:
    rows = [{**pair, **TRAINING}, {**pair, "weight/own": 0, "weight/other": 1e3, "label_probability": 1, "tie": 0}]
    for loaded in (load_pairs(jsonl(rows)), load_pairs(rows[:1]), load_pairs(pd.DataFrame(rows))):
        assert {name: loaded[0][name] for name in TRAINING} == TRAINING
        assert {name: loaded.features[name].dtype for name in TRAINING} == {
            **dict.fromkeys(TRAINING, "float64"), "tie": "bool",
        }  # fmt: skip
        assert not next(spoken_pairs(loaded)).columns


@pytest.mark.parametrize("pair", [TEXTS, CHAT], ids=["texts", "messages"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("weight/own", -0.5, "-0.5, not a weight of 0 or more"),
        ("weight/own", 1e300, "1e+300, not a weight of 0 or more, up to 3.4e"),
        ("weight/own", None, "null, not a weight"),
        ("weight/own", float("inf"), "inf, not a weight"),
        ("weight/own", "much", "'much', not a weight"),
        ("label_probability", float("nan"), "not a probability from 0 to 1"),
        ("label_probability", 1.5, "1.5, not a probability from 0 to 1"),
        ("tie", 2.0, "2.0, neither true nor false"),
        ("tie", None, "null, neither true nor false"),
        ("tie", "maybe", "'maybe', neither true nor false"),
    ],
)
def test_what_a_column_cannot_hold_is_refused_by_its_row(
    pair: dict[str, Any], column: str, value: Any, said: str, refused: Any
) -> None:
    rows = [{**pair, column: "1" if isinstance(value, str) else 1.0}, {**pair, column: value}]
    refused(lambda: load_pairs(rows), "row 2", repr(column), said)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("column", ["weight/own", "label_probability"])
def test_true_and_false_are_no_numbers(column: str, ending: str, tmp_path: Path, refused: Any) -> None:
    table, path = pd.DataFrame([{**TEXTS, column: True}, {**TEXTS, column: False}]), tmp_path / f"pairs.{ending}"
    if ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    refused(lambda: load_pairs(path), path.name, repr(column), "True")


def test_a_weight_has_a_name(jsonl: Any) -> None:
    assert "weight/" not in load_pairs(jsonl([{**TEXTS, "weight/": 1.0}])).column_names


def test_flipping_a_pair_turns_the_probability_of_its_label_and_nothing_else(jsonl: Any) -> None:
    scored = {**TEXTS, **TRAINING, "score_chosen": 1.0, "score_rejected": 2.0}
    for pair in (flipped(scored, unknown_margin), load_pairs(jsonl([scored]), contradictions="flip")[0]):
        assert (pair["chosen"], pair["label_probability"]) == ("b", 0.25)
        assert (pair["weight/own"], pair["weight/other"], pair["tie"]) == (0.5, 2, True)


def test_columns_of_another_name_are_mapped(jsonl: Any) -> None:
    path = jsonl([{**TEXTS, "p_correct": 0.9, "both_good": "yes"}, {**TEXTS, "p_correct": 0.1, "both_good": "no"}])
    assert load_pairs(path, columns={"label_probability": "p_correct"})["label_probability"][:] == [0.9, 0.1]


def test_what_not_every_source_has_is_left_out_and_named(jsonl: Any) -> None:
    paths = [jsonl([{**TEXTS, **TRAINING}], "first.jsonl"), jsonl([{**TEXTS, "weight/own": 1}], "second.jsonl")]
    pairs, report = read_pairs(DataSettings(path=paths))
    assert set(TRAINING) & set(pairs.column_names) == {"weight/own"}
    assert "  left out, since another source has none: weight/other, label_probability, tie" in report.lines()
