"""How good answers are against a policy's: the numbers, and the columns on their way through files and commands."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mixdpo import audit, load_pairs
from mixdpo.auditing.clean import clean
from mixdpo.cli.main import main
from mixdpo.data.arrays import float_column
from mixdpo.pairs.quality import Quality, against, quality_of, with_quality

COLUMNS = {
    "quality/start/chosen": 1.5,
    "quality/start/rejected": -0.5,
    "quality/start/chosen_wins": 0.75,
    "quality/start/rejected_wins": 0.25,
}
EXCHANGED = dict(zip(COLUMNS, (-0.5, 1.5, 0.25, 0.75), strict=True))
NOTHING = dict.fromkeys(COLUMNS)


def as_messages(row: dict) -> dict:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {**row, **{side: [{"role": role, "content": row[side]}] for side, role in roles.items()}}


def of_columns(row: dict) -> dict:
    return {name: value for name, value in row.items() if name.startswith("quality/")}


def test_a_rating_against_a_policys() -> None:
    assert against(3.0, [1.0, 3.0, 4.0, 4.0]) == (0.0, 0.375)
    assert against(5.0, [1.0, math.nan]) == (4.0, 1.0), "a rating that could not be read is left out"
    assert all(map(math.isnan, against(math.nan, [1.0])))
    assert all(map(math.isnan, against(1.0, [math.nan])))
    assert all(map(math.isnan, against(1.0, [])))


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("conversational", [False, True])
def test_loading_keeps_the_columns_and_what_is_not_known(text_rows, tmp_path, ending, conversational) -> None:
    if conversational and ending == "csv":
        pytest.skip("CSV holds no messages")
    rows = [text_rows[0] | COLUMNS, text_rows[1] | NOTHING]
    data = Dataset.from_list(list(map(as_messages, rows)) if conversational else rows)
    path = tmp_path / f"pairs.{ending}"
    {"jsonl": data.to_json, "parquet": data.to_parquet, "csv": data.to_csv}[ending](str(path))
    pairs = load_pairs(str(path))
    assert of_columns(pairs[0]) == COLUMNS
    assert of_columns(pairs[1]) == NOTHING
    found = quality_of(pairs)
    assert list(found) == ["start"]
    np.testing.assert_array_equal(found["start"].chosen, [1.5, np.nan])
    np.testing.assert_array_equal(found["start"].rejected_wins, [0.25, np.nan])
    assert found["start"].known.tolist() == [True, False]


@pytest.mark.parametrize("conversational", [False, True])
def test_a_source_without_the_columns_has_nothing_in_them(text_rows, jsonl, conversational) -> None:
    rows = list(map(as_messages, text_rows)) if conversational else text_rows
    rated, other = jsonl([rows[0] | COLUMNS]), jsonl([rows[1]], "other.jsonl")
    for paths in ([rated, other], [other, rated]):
        pairs = {pair["source"]: pair for pair in load_pairs(paths)}
        assert of_columns(pairs[rated]) == COLUMNS
        assert of_columns(pairs[other]) == NOTHING


def test_columns_that_only_look_alike_are_not_read(text_rows, jsonl) -> None:
    others = {"quality/start": 1.0, "quality": 2.0, "quality/a/b/chosen": 3.0, "quality/start/prompt": "good"}
    assert set(others).isdisjoint(load_pairs(jsonl([text_rows[0] | others])).column_names)


@pytest.mark.parametrize("conversational", [False, True])
def test_pairs_that_are_flipped_exchange_it(text_rows, jsonl, conversational) -> None:
    rows = [row | COLUMNS for row in text_rows]
    path = jsonl(list(map(as_messages, rows)) if conversational else rows)
    flipped = load_pairs(path, contradictions="flip")
    assert [of_columns(pair) for pair in flipped] == [COLUMNS, COLUMNS, EXCHANGED]
    half = jsonl([{**text_rows[2], "quality/start/chosen": 1.5}])
    assert of_columns(load_pairs(half, contradictions="flip")[0]) == {"quality/start/chosen": None}


def test_clean_exchanges_it_with_the_label(text_rows, jsonl, tmp_path) -> None:
    pairs = load_pairs(jsonl([row | COLUMNS for row in text_rows]))
    audit(pairs).save(tmp_path / "report")
    left, _ = clean(pairs, tmp_path / "report", ["contradicted"])
    assert [of_columns(pair) for pair in left] == [COLUMNS, COLUMNS, EXCHANGED]


def test_score_writes_it_as_it_was_read(text_rows, jsonl, tmp_path) -> None:
    scored = tmp_path / "scored.parquet"
    path = jsonl([text_rows[0] | COLUMNS, text_rows[1] | NOTHING])
    assert main(["score", path, "--metric", "rating", "--output", str(scored)]) == 0
    column = pq.read_table(scored)["quality/start/chosen"]
    assert column.to_pylist() == [1.5, None], "null, which means of data bases leave out, and not NaN"


def test_columns_are_replaced(text_rows, jsonl) -> None:
    pairs = load_pairs(jsonl([row | COLUMNS for row in text_rows]))
    values = np.array([1.0, np.nan, 3.0])
    quality = Quality(chosen=values, rejected=-values, chosen_wins=values / 3, rejected_wins=1 - values / 3)
    both = with_quality(with_quality(pairs, "start", quality), "trained", quality)
    assert len(both.column_names) == len(pairs.column_names) + 4
    assert both["quality/start/chosen"][:] == [1.0, None, 3.0]
    np.testing.assert_array_equal(float_column(both, "quality/trained/rejected"), -values)
    assert list(quality_of(both)) == ["start", "trained"]


def test_the_plan_says_it_by_route(text_rows, jsonl, tmp_path, capsys) -> None:
    def planned(rows: list[dict]) -> str:
        words = [jsonl(rows), "--plan.threshold", "2.0", "--output", str(tmp_path / "plan.parquet")]
        assert main(["plan", *words]) == 0
        return capsys.readouterr().out

    qualities = [1.5, 0.25, None]
    rows = [row | {"quality/start/chosen": value} for row, value in zip(text_rows, qualities, strict=True)]
    lines = planned(rows).splitlines()
    for route, mean in (("preference", "+1.5"), ("sft", "+0.25")):
        at = next(number for number, line in enumerate(lines) if route in line)
        assert mean in lines[at]
        assert "n = 1" in lines[at + 1]
    assert "start" not in planned(text_rows)
