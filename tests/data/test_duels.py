"""Two answers and a winner as HelpSteer, SHP and Kaggle's arena keep them, and lists of answers in cells of text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mixdpo import load_pairs
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs

U, A, B = {"role": "user", "content": "River?"}, "Elbe.", "Water."


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_helpsteer3_strengths_are_margins_and_zero_is_a_tie(jsonl: Any) -> None:
    row = {"domain": "general", "context": [U], "response1": A, "response2": B}
    rows = [{**row, "overall_preference": value} for value in (-3, 0, 1, 2)]
    pairs, report = read_pairs(DataSettings(path=jsonl(rows)))
    assert pairs["prompt"][:] == [[U]] * 3
    assert [side[0]["content"] for side in pairs["chosen"]] == [A, B, B]
    assert pairs["margin"][:] == [3.0, 1.0, 2.0]
    assert report.sources[0].dropped == {"tie": 1}
    assert not report.sources[0].warnings


def test_helpsteer2_under_zero_prefers_the_first(jsonl: Any, refused: Any) -> None:
    row = {
        "split": "train",
        "prompt": "River?",
        "response_1": A,
        "response_2": B,
        "preference_statement": "@Response 1",
    }
    pairs = load_pairs(jsonl([{**row, "preference_strength": value} for value in (-2, 1)]))
    assert (pairs["chosen"][:], pairs["rejected"][:], pairs["margin"][:]) == ([A, B], [B, A], [2.0, 1.0])
    path = jsonl([{**row, "preference_strength": value} for value in (1, None)], "null.jsonl")
    refused(lambda: load_pairs(path), "row 2", "preference_strength")


def test_shp_labels_and_upvotes(jsonl: Any) -> None:
    row = {"post_id": "x", "history": "River?", "human_ref_A": A, "human_ref_B": B, "score_ratio": 2.0}
    rows = [{**row, "labels": 1, "score_A": 8, "score_B": 4}, {**row, "labels": 0, "score_A": 2, "score_B": 6}]
    pairs = load_pairs(jsonl(rows))
    assert (pairs["prompt"][:], pairs["chosen"][:]) == (["River?"] * 2, [A, B])
    assert (pairs["score_chosen"][:], pairs["score_rejected"][:]) == ([8.0, 6.0], [4.0, 2.0])


def test_kaggles_arena_keeps_every_turn_in_lists(tmp_path: Path, refused: Any) -> None:
    cut = '["cut \\ud83d", "End?"]'
    row = {
        "id": 1,
        "model_a": "x",
        "prompt": '["River?"]',
        "response_a": json.dumps([A]),
        "response_b": json.dumps([B]),
    }
    won = [dict.fromkeys(("winner_model_a", "winner_model_b", "winner_tie"), 0) | {name: 1} for name in (
        "winner_model_a", "winner_model_b", "winner_tie")]  # fmt: skip
    several = {**row, "prompt": cut, "response_a": '["Fine.", "Yes."]', "response_b": '["Odd.", "No."]'}
    silent = {**row, "response_b": "[null]"}
    rows = [{**row, **won[0]}, {**row, **won[1]}, {**row, **won[2]}, {**several, **won[1]}, {**silent, **won[0]}]
    pairs, report = read_pairs(DataSettings(path=table(tmp_path / "train.csv", rows)))
    assert pairs["prompt"][:2] == [[U], [U]]
    assert [side[0]["content"] for side in pairs["chosen"]] == [A, B, "Odd."]
    assert pairs["prompt"][2] == [{"role": "user", "content": "cut \ufffd"}]
    assert [message["content"] for message in pairs["chosen"][2]] == ["Odd.", "End?", "No."]
    assert [message["role"] for message in pairs["rejected"][2]] == ["assistant", "user", "assistant"]
    assert report.sources[0].dropped == {"tie": 1, "empty_completion": 1}
    assert pairs["source_row"][:] == [2, 3, 5]
    short = table(tmp_path / "short.csv", [{**several, "response_a": "[1]", **won[0]}])
    refused(lambda: load_pairs(short), "row 2", "response_a")


def test_ties_are_kept_where_they_are_asked_for(jsonl: Any, tmp_path: Path, refused: Any) -> None:
    """Of a tie the first answer is called chosen, and the column says that it is one."""
    row = {"prompt": "River?", "response_1": A, "response_2": B}
    strengths = jsonl([{**row, "preference_strength": value} for value in (0, 2, -1)])
    pairs, report = read_pairs(DataSettings(path=strengths, ties="keep"))
    assert (pairs["chosen"][:], pairs["tie"][:], pairs["margin"][:]) == ([A, B, A], [True, False, False], [0, 2, 1])
    assert not report.sources[0].dropped
    row = {"prompt": "River?", "response_a": A, "response_b": B}
    named = jsonl([{**row, "winner": name} for name in ("model_b", "tie (bothbad)")], "named.jsonl")
    pairs = load_pairs(named, ties="keep")
    assert (pairs["chosen"][:], pairs["tie"][:]) == ([B, A], [False, True])
    turns = {"prompt": '["River?"]', "response_a": json.dumps([A]), "response_b": json.dumps([B])}
    rows = [{**turns, "winner_model_a": 0, "winner_model_b": won, "winner_tie": 1 - won} for won in (1, 0)]
    pairs = load_pairs(table(tmp_path / "turns.csv", rows), ties="keep")
    assert [side[0]["content"] for side in pairs["chosen"]] == [B, A]
    assert pairs["tie"][:] == [False, True]
    refused(lambda: load_pairs(named, ties="all"), "ties must be one of drop, keep")


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["JSON", "Python"])
def test_answers_with_scores_in_a_cell_of_text(written: Any, tmp_path: Path, refused: Any) -> None:
    answers = [
        {"response": text, "overall_score": score, "annotations": {"help": {"Rating": "3"}}}
        for text, score in ((A, 7.5), (B, 2.0))
    ]
    rows = [{"source": "web", "instruction": "River?", "completions": written(answers)}] * 2
    pairs, report = read_pairs(DataSettings(path=table(tmp_path / "raw.csv", rows)))
    assert (pairs["chosen"][:], pairs["score_rejected"][:]) == ([A] * 2, [2.0] * 2)
    assert any("lists or messages as text: 2, in completions" in note for note in report.sources[0].notes)
    lists = [{"input": "River?", "generations": written([A, B]), "ratings": written([5, 1])}]
    assert load_pairs(table(tmp_path / "lists.csv", lists))["score_chosen"][:] == [5.0]
    several = [rows[0]] * 1500 + [{**rows[0], "completions": "[{"}]
    refused(lambda: load_pairs(table(tmp_path / "broken.csv", several)), "row 1502", "completions")
