"""Pairs of plain text read column by column are those read row by row, whatever is odd about them."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from mixdpo.common.files import digest
from mixdpo.data.columns import find_columns, holds_plain_texts
from mixdpo.data.hashing import column_digest, row_digests
from mixdpo.data.pairs import PairReader, RowFault, pair_features
from mixdpo.data.row_places import places_in_table
from mixdpo.data.text_reader import read_text_table

ODD = ("<think>\nno", "no</think>\n", "Do you know why? Yes", "Do you know why?")
TURNS = ("Human: Why?\n\nAssistant:", " yes\n\nHuman: more", "a\n<|im_start|>user\nb", "<|im_start|>assistant\n")
TEXT = st.sampled_from(["Why?", *TURNS, *ODD, "Därum", "  two words ", "", " ", "\n", "\x1c", "\u00a0", "\x00", None])
NUMBER = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, -1.0, math.nan, math.inf]))
TRAINING = st.sampled_from(["1", "0", "1.0", "0.25", "2", "-1", "true", "False", "nan", "inf", "", None, *["1"] * 20])
WRITTEN = st.sampled_from(["1", " 2", "+3", "1_0", "4e0", "5.", ".5", "0x1", "infinity", "nan", "N/A", "", "٣", None])


def read(raw: Dataset, by_columns: bool, **policies: Any) -> tuple[Any, Any]:
    """Read all rows; return the pairs (or what stopped the reading) and the counts."""
    columns = find_columns(raw.features, None)
    features = pair_features([(raw.features, columns)], conversational=False)
    assert holds_plain_texts(raw.features, columns)
    reader = PairReader(
        columns=columns,
        conversational=False,
        features=features,
        exchanged=lambda metric, margin: -margin,
        places=places_in_table("the data set", 100 + len(raw)),
        **policies,
    )
    rows = range(100, 100 + len(raw))
    try:
        if by_columns:
            table = read_text_table(raw.data.table, rows, reader=reader)
            assert table.schema == features.arrow_schema
            pairs = table.to_pydict()
        else:
            pairs = reader.read_batch(raw[:], rows)
    except RowFault as fault:
        return (fault.row, fault.column, fault.problem, fault.hint), None
    return pairs, reader.tally


@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT, NUMBER, NUMBER, NUMBER, WRITTEN, TRAINING), min_size=1, max_size=8),
    scores=st.sampled_from(["numbers", "written", "margin", "none"]),
    invalid=st.sampled_from(["error", "drop"]),
    contradictions=st.sampled_from(["keep", "flip", "drop"]),
    training=st.sampled_from(["none", "weight/own", "label_probability", "tie"]),
)
@settings(deadline=None, max_examples=300)
@pytest.mark.slow
def test_columns_give_what_rows_give(
    rows: list[Any], scores: str, invalid: Any, contradictions: Any, training: str
) -> None:
    text, number = Value("string"), Value("float64")
    types = {"prompt": text, "chosen": text, "rejected": text, "first": number, "second": number, "third": number}
    types |= {"written": text, "how": text}
    raw = Dataset.from_dict(dict(zip(types, zip(*rows, strict=True), strict=True)), Features(types))
    names = {
        "numbers": {"first": "score_chosen", "second": "score_rejected"},
        "written": {"written": "score_chosen", "second": "score_rejected"},
        "margin": {"first": "margin"},
        "none": {},
    }[scores]
    raw = raw.rename_columns({**names, "third": "margin/judge", "how": training})
    policies = {"invalid_scores": invalid, "contradictions": contradictions}
    by_columns, by_rows = (read(raw, way, **policies) for way in (True, False))
    assert repr(by_columns) == repr(by_rows), "repr, for NaN is not NaN"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, True),
        ({"score_chosen": [1], "score_rejected": [0]}, True),
        ({"score_chosen": [True], "score_rejected": [False]}, False),
        ({"margin/judge": ["1"]}, False),
        ({"weight/own": ["1"], "label_probability": [0.5], "tie": [True]}, True),
        ({"weight/own": [[1.0]]}, False),
        ({"tools": ["[]"]}, False),
        ({"ratings_chosen": [[1.0]]}, False),
        ({"chosen": [[{"role": "assistant", "content": "a"}]]}, False),
        ({"rejected": [None]}, False),
    ],
)
def test_what_is_plain(more: dict[str, list[Any]], expected: bool) -> None:
    raw = Dataset.from_dict({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], **more})
    assert holds_plain_texts(raw.features, find_columns(raw.features, None)) is expected


def test_data_without_a_prompt_column_is_not_plain() -> None:
    raw = Dataset.from_dict({"chosen": ["p a"], "rejected": ["p b"]})
    assert not holds_plain_texts(raw.features, find_columns(raw.features, None))


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=5))
def test_digests_of_columns_are_those_of_their_values(rows: list[tuple[str, str]]) -> None:
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in (0, 1)]
    assert row_digests(columns, size=10).to_pylist() == [digest(row, size=10) for row in rows]
    assert column_digest(columns) == digest([row[0] for row in rows] + [row[1] for row in rows])
    assert column_digest(column.slice(1) for column in columns) == digest(
        [row[0] for row in rows[1:]] + [row[1] for row in rows[1:]]
    )
