"""Columns, weights, caps, several sources, the report and the fingerprint."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from mixdpo import load_pairs
from mixdpo.common.settings import build
from mixdpo.data.arrays import check_is_loaded, data_fingerprint, float_column
from mixdpo.data.columns import SCORE_NAMES
from mixdpo.data.data_settings import DataSettings, SourceSettings
from mixdpo.data.load import read_pairs, weighted_rows


@pytest.mark.parametrize("names", SCORE_NAMES)
def test_score_columns_are_found(names: tuple[str, str], text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    rows = [
        {
            **{key: row[key] for key in ("prompt", "chosen", "rejected")},
            names[0]: row["score_chosen"],
            names[1]: row["score_rejected"],
        }
        for row in text_rows
    ]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert float_column(pairs, "score_chosen").tolist() == [5.0, 4.0, 2.0]
    assert report.sources[0].score_columns == names


def test_columns_are_mapped(jsonl: Any, refused: Any) -> None:
    path = jsonl([{"instruction": "Q", "good": "a", "bad": "b", "chosen": "no", "gap": 2}])
    columns = {"prompt": "instruction", "chosen": "good", "rejected": "bad", "margin": "gap"}
    pairs = load_pairs(path, columns=columns)
    assert {k: v for k, v in pairs[0].items() if k != "pair_id"} == {
        "prompt": "Q",
        "chosen": "a",
        "rejected": "b",
        "margin": 2.0,
        "source_row": 1,
    }
    refused(lambda: load_pairs(path), path, "'rejected'", "instruction, good, bad", "columns: {rejected: ")
    refused(lambda: load_pairs(path, columns={**columns, "prompt": "instrution"}), "'instrution'", "'instruction'")
    refused(lambda: load_pairs(path, columns={**columns, "promt": "good"}), "'promt'", "did you mean prompt?")
    refused(lambda: load_pairs(path, columns={**columns, "score_chosen": "gap"}), "score_rejected")


@pytest.mark.parametrize("name", ["question", "instruction", "Input", "query"])
def test_a_prompt_of_another_name_is_not_thrown_away(name: str, jsonl: Any, refused: Any) -> None:
    answers = {"chosen": "The capital is Paris.", "rejected": "The capital is Rome."}
    path = jsonl([{name: "Capital of France?", **answers}])
    refused(lambda: load_pairs(path), path, f"a column {name!r}", f"--data.columns '{{prompt: {name}}}'")
    pairs, report = read_pairs(DataSettings(path=path, columns={"prompt": name}))
    assert pairs[0]["prompt"] == "Capital of France?"
    assert report.sources[0].unread_columns == ()
    assert load_pairs(jsonl([{"prompt": "Capital?", name: "hint", **answers}]))[0]["prompt"] == "Capital?"
    assert load_pairs(jsonl([{"id": 1, **answers}]))[0]["prompt"] == "The capital is"


def test_a_prompt_goes_on_in_the_column_input(jsonl: Any, refused: Any) -> None:
    answers = {"chosen": "Four", "rejected": "Five"}
    rows = [{"instruction": "Add.", "input": further, **answers} for further in ("2 and 2", "", None)]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows), columns={"prompt": "instruction"}))
    assert pairs["prompt"] == ["Add.\n\n2 and 2", "Add.", "Add."]
    assert report.sources[0].unread_columns == ()

    other = jsonl([{"prompt": "Add.", "query": "2 and 2", "input": "unread", **answers}])
    assert load_pairs(other)[0]["prompt"] == "Add."
    assert load_pairs(other, columns={"input": "query"})[0]["prompt"] == "Add.\n\n2 and 2"

    messages = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    chat = load_pairs(jsonl([{"instruction": "Add.", "input": "2", **messages}]), columns={"prompt": "instruction"})
    assert chat[0]["prompt"] == [{"role": "user", "content": "Add.\n\n2"}]
    wrong = jsonl([{"prompt": "Add.", "input": [1], **answers}])
    refused(lambda: load_pairs(wrong, columns={"input": "input"}), "row 1", "'input'", "not text")
    without = jsonl([{"input": "Add.", **answers}])
    refused(lambda: load_pairs(without, columns={"input": "input"}), "row 1", "'input'", "only texts")


def test_text_answers_beside_a_conversation_and_messages_that_nobody_reads(jsonl: Any, refused: Any) -> None:
    said = [{"role": "user", "content": "What is 2+2?"}]
    answers = {"chosen": "The answer is 4.", "rejected": "The answer is 5."}
    pair = load_pairs(jsonl([{"messages": said, **answers}]))[0]
    assert pair["prompt"] == said
    assert pair["chosen"] == [{"role": "assistant", "content": "The answer is 4."}]
    unread = jsonl([{"trajectory": said, **answers}])
    refused(lambda: load_pairs(unread), unread, "a column 'trajectory'", "{prompt: trajectory}")


def test_tools_that_are_names_alone_are_refused(chat_rows: list[dict[str, Any]], jsonl: Any, refused: Any) -> None:
    path = jsonl([{**chat_rows[0], "tools": ["search"]}])
    refused(lambda: load_pairs(path), path, "row 1", "'tools'", "'search', which is not JSON", "a list of tools")


def test_seeds_below_zero_are_refused(jsonl: Any, refused: Any) -> None:
    refused(lambda: load_pairs(jsonl([{"prompt": "p", "chosen": "a", "rejected": "b"}]), seed=-1), "seed is -1")


def test_columns_that_are_not_read_are_named(jsonl: Any) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "all": [1, 2], "margin/own": 1.0}
    path = jsonl([{"pair_id": "x", **pair, "system": "Be brief.", "note": ""}])
    columns = {"score_chosen": "max(all)", "score_rejected": "min(all)"}
    _, report = read_pairs(DataSettings(path=path, columns=columns))
    assert report.sources[0].unread_columns == ("system", "note")
    assert report.lines()[-1] == "  not read: system, note"


def test_all_dropped(jsonl: Any, refused: Any) -> None:
    path = jsonl([{"prompt": "p", "chosen": "a", "rejected": "a"}, {"prompt": "p", "chosen": "", "rejected": "a"}])
    refused(lambda: load_pairs(path), path, "row 1", "'chosen'", "all 2 rows were dropped", "1 identical", "columns")


def test_what_is_dropped_is_logged_and_adds_up(
    text_rows: list[dict[str, Any]], jsonl: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*text_rows, {**text_rows[0], "chosen": " "}, {**text_rows[0], "chosen": "Five."}]
    path = jsonl(rows)
    with caplog.at_level(logging.INFO, "mixdpo"):
        load_pairs(path)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "empty_completion" in caplog.text
    assert "row 4" in caplog.text
    _, report = read_pairs(DataSettings(path=path))
    assert report.kept + sum(report.dropped.values()) == report.read == 5
    assert report.to_dict()["dropped"] == {"empty_completion": 1, "identical_completions": 1}
    assert report.lines() == [record.message for record in caplog.records]


@given(
    n=st.integers(1, 50),
    weight=st.floats(0.01, 4),
    cap=st.none() | st.integers(1, 80),
    seed=st.integers(0, 9),
)
def test_weights_and_caps(n: int, weight: float, cap: int | None, seed: int) -> None:
    rows = weighted_rows(n, weight, cap, [seed])
    expected = max(1, round(weight * n))
    assert len(rows) == (expected if cap is None else min(expected, cap))
    assert rows.min() >= 0
    assert rows.max() < n
    if cap is None:
        counts = np.bincount(rows, minlength=n)
        assert counts.max() - counts.min() <= 1
    assert (rows == weighted_rows(n, weight, cap, [seed])).all()
    if weight <= 1:
        assert (np.diff(rows) > 0).all(), "a subset keeps the order of the file"


def test_several_sources(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    one, two = (
        jsonl(text_rows, "one.jsonl"),
        jsonl([{**r, "prompt": r["prompt"] + "!"} for r in text_rows], "two.jsonl"),
    )
    settings = DataSettings(path=[one, {"path": two, "weight": 2, "max_pairs": 4}])
    pairs, report = read_pairs(settings)
    assert pairs["source"][:] == [one] * 3 + [two] * 4
    assert [source.used for source in report.sources] == [3, 4]
    assert report.pairs == 7
    assert load_pairs([one, SourceSettings(path=two, weight=2, max_pairs=4)])[:] == pairs[:]
    assert len(load_pairs([one, two], max_pairs=4)) == 4
    assert load_pairs({"path": one, "weight": 2})["pair_id"][:] == load_pairs(one)["pair_id"][:] * 2


def test_scores_are_left_out_unless_every_source_has_them(text_rows: list[dict[str, Any]], jsonl: Any) -> None:
    plain = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in text_rows]
    pairs, report = read_pairs(DataSettings(path=[jsonl(text_rows, "a.jsonl"), jsonl(plain, "b.jsonl")]))
    assert "score_chosen" not in pairs.column_names
    assert "left out" in report.lines()[1]
    assert report.sources[0].ties is None


def test_sources_of_messages_with_other_keys_are_joined(chat_rows: list[dict[str, Any]], jsonl: Any) -> None:
    named = [{**row, "prompt": [{**row["prompt"][1], "name": "Ann"}]} for row in chat_rows]
    pairs = load_pairs([jsonl(chat_rows, "a.jsonl"), jsonl(named, "b.jsonl")])
    assert pairs[5]["prompt"] == [{"role": "user", "content": "A dog's name?", "name": "Ann"}]


def test_bad_settings(
    text_rows: list[dict[str, Any]], chat_rows: list[dict[str, Any]], jsonl: Any, refused: Any
) -> None:
    path = jsonl(text_rows)
    refused(lambda: load_pairs([path, jsonl(chat_rows, "chat.jsonl")]), "text cannot be joined", "chat.jsonl")
    refused(lambda: load_pairs([]), "names no data")
    refused(lambda: load_pairs([{"path": path, "wieght": 2}]), path, "'wieght'", "did you mean weight?")
    refused(lambda: load_pairs([{"weight": 2}]), "no path")
    refused(lambda: load_pairs([{"path": path, "weight": 0}]), "weight must be a number above 0")
    refused(lambda: load_pairs([{"path": path, "max_pairs": 0}]), "max_pairs")
    refused(lambda: load_pairs(path, max_pairs=0), "max_pairs")
    refused(lambda: load_pairs([3]), "must be text")
    refused(lambda: load_pairs(path, contradictions="flop"), "keep, flip, drop")


def test_a_misspelt_key_survives_the_recipes_type_check(refused: Any) -> None:
    settings = build(DataSettings, {"path": [{"path": "a", "wieght": 2}]}, "data")
    refused(settings.sources, "'wieght'", "did you mean weight?")


def test_the_fingerprint_is_of_pairs_in_order(text_rows: list[dict[str, Any]], jsonl: Any, refused: Any) -> None:
    pairs = load_pairs(jsonl(text_rows))
    assert data_fingerprint(pairs) == data_fingerprint(load_pairs(jsonl(text_rows, "copy.jsonl")))
    assert data_fingerprint(pairs) != data_fingerprint(pairs.select([1, 0, 2]))
    refused(lambda: data_fingerprint(pairs.remove_columns("pair_id")), "pair_id", "load_pairs")


def test_rows_that_mixdpo_has_not_read_are_refused(text_rows: list[dict[str, Any]], refused: Any) -> None:
    for rows, kind in ((text_rows, "a list"), (Dataset.from_list(text_rows), "without the column pair_id")):
        refused(lambda rows=rows: check_is_loaded(rows, "train_dataset"), kind, "mixdpo.load_pairs(train_dataset)")
    check_is_loaded(load_pairs(text_rows))


def test_messages_are_read_without_polars(chat_rows: list[dict[str, Any]], jsonl: Any, monkeypatch: Any) -> None:
    """It is large, and what a machine with a GPU and no package index may lack."""
    monkeypatch.setitem(sys.modules, "mixdpo.data.text_reader", None)
    assert len(load_pairs(jsonl(chat_rows))) == len(chat_rows)
