"""What a message calls pairs."""

from __future__ import annotations

from datasets import Dataset

from mixdpo.data.pair_names import pair_names


def pairs(**columns) -> Dataset:
    return Dataset.from_dict({"pair_id": [f"id{row}" for row in range(8)], **columns})


def test_rows_are_those_of_the_file() -> None:
    of_one = pairs(source_row=list(range(11, 19)))
    assert pair_names(of_one, [2]) == "pair id2 (row 13)"
    of_two = of_one.add_column("source_file", ["a.jsonl"] * 4 + ["b.csv"] * 4)
    assert pair_names(of_two, [2, 5]) == "pairs id2 (row 13 of a.jsonl), id5 (row 16 of b.csv)"


def test_rows_of_a_data_set_count_from_1() -> None:
    assert pair_names(pairs(), [0]) == "pair id0 (row 1)"


def test_only_the_first_few_are_named() -> None:
    assert pair_names(pairs(), range(8)).endswith("id4 (row 5) and 3 more")
