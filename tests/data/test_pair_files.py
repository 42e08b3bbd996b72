"""What `score` and `clean` write: all columns of the input, in every format, and the same pairs when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mixdpo import audit, load_pairs
from mixdpo.cli.main import main
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load import read_pairs
from mixdpo.data.pair_files import save_pairs

ENDINGS = [".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz"]
HARD_TEXT = ' "a", b;\r\nc\rd\t| \u2028 é 日 \\n \x1f\n\n'

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, {"y": None}], "s": "é"}}}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": HARD_TEXT}]
CHAT = {
    "prompt": ASKED,
    "chosen": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "rejected": [{"role": "assistant", "content": "No."}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
}
TEXTS = {"prompt": HARD_TEXT, "chosen": f"good{HARD_TEXT}", "rejected": "123"}
NUMBERS = {
    "score_chosen": 0.1,
    "score_rejected": -3,
    "ratings_chosen": [1.5, None],
    "ratings_rejected": [1.0, 2.0],
    "margin/own": 1e-17,
    "weight/own": 0.1,
    "label_probability": 0.7,
    "tie": True,
}
EXTRA = {"id": 7, "topic": HARD_TEXT, "meta": {"a": [1, 2], "b": None}, "is_new": True, "note": None}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("pair", [TEXTS, CHAT], ids=["texts", "messages"])
def test_every_format_gives_the_same_pairs(pair: dict[str, Any], ending: str, jsonl: Any, tmp_path: Path) -> None:
    rows = [
        {**pair, **NUMBERS, **EXTRA},
        {**pair, **NUMBERS, **EXTRA, "rejected": pair["chosen"], "chosen": pair["rejected"]},
    ]
    loaded, _ = read_pairs(DataSettings(path=jsonl(rows)), keep_columns=True)
    assert set(loaded.column_names) >= set(rows[0])
    assert loaded["topic"][:] == [HARD_TEXT] * 2
    path = tmp_path / f"out{ending}"
    save_pairs(loaded, path)
    again, report = read_pairs(DataSettings(path=str(path)), keep_columns=True)
    for name in ("pair_id", "prompt", "chosen", "rejected", *NUMBERS, *(["tools"] if "tools" in pair else [])):
        assert repr(again[name][:]) == repr(loaded[name][:]), name
    assert set(again.column_names) == set(loaded.column_names)
    assert not report.sources[0].warnings
    if "csv" in ending:
        assert json.loads(again["meta"][0]) == {"a": [1, 2], "b": None}
    else:
        assert again["meta"][:] == loaded["meta"][:]


def test_score_and_clean_keep_the_columns_of_the_input(jsonl: Any, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Why {n}?",
            "good": f"yes {n}",
            "bad": "no",
            "s1": 3 - n,
            "s2": 1.5,
            "id": f"r{n}",
            "tags": ["a"],
        }
        for n in range(3)
    ]
    path = jsonl([{**rows[0], "good": " "}, *rows])
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad", "score_chosen": "s1", "score_rejected": "s2"}
    scored = tmp_path / "scored.csv"
    words = [path, "--data.columns", json.dumps(columns)]
    assert main(["score", *words, "--metric", "rating", "--metric", "length_gap", "-o", str(scored)]) == 0
    pairs, _ = read_pairs(DataSettings(path=str(scored)), keep_columns=True)
    assert pairs["id"][:] == ["r0", "r1", "r2"]
    assert pairs["tags"][:] == ['["a"]'] * 3
    assert pairs["margin/rating"][:] == [1.5, 0.5, -0.5]
    own = load_pairs(path, columns=columns)
    assert pairs["pair_id"][:] == own["pair_id"][:]
    audit(own).save(tmp_path / "report")
    report = ["--report", str(tmp_path / "report")]
    cleaned = tmp_path / "cleaned.v2.json.gz"
    assert main(["clean", *words, *report, "--apply", "contradicted", "-o", str(cleaned)]) == 0
    left, _ = read_pairs(DataSettings(path=str(cleaned)), keep_columns=True)
    assert left["id"][:] == ["r0", "r1", "r2"]
    assert left["tags"][:] == [["a"]] * 3
    assert left["chosen"][:] == ["yes 0", "yes 1", "no"]
    assert (tmp_path / "cleaned.v2.log.parquet").is_file()


def test_columns_whose_names_are_taken_get_another_and_are_named(jsonl: Any) -> None:
    path = jsonl([{"prompt": "Q", "good": "a", "bad": "b", "chosen": "mine", "pair_id": "7"}])
    settings = DataSettings(path=path, columns={"chosen": "good", "rejected": "bad"})
    pairs, report = read_pairs(settings, keep_columns=True)
    assert (pairs["chosen"][:], pairs["chosen_of_input"][:], pairs["pair_id_of_input"][:]) == (["a"], ["mine"], ["7"])
    assert any("'chosen' is written as 'chosen_of_input'" in note for note in report.sources[0].notes)
    assert set(load_pairs(path, columns=settings.columns).column_names) & {"chosen_of_input", "good"} == set()


def test_columns_of_several_sources_are_joined(jsonl: Any, tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    one = jsonl(
        [{**row, "id": 1, "only": [1], "score_chosen": 2.0, "score_rejected": 1.0, "source": "web"}], "1.jsonl"
    )
    two = jsonl([{**row, "id": "x", "other": True}], "2.jsonl")
    pairs, _ = read_pairs(DataSettings(path=[one, two]), keep_columns=True)
    assert pairs["id"][:] == ["1", "x"]
    assert pairs["only"][:] == [[1], None]
    assert pairs["other"][:] == [None, True]
    assert pairs["source"][:] == [one, two]
    assert pairs["source_of_input"][:] == ["web", None]
    assert pairs["score_chosen_of_input"][:] == [2.0, None]
    save_pairs(pairs, tmp_path / "out.jsonl")
    assert load_pairs(str(tmp_path / "out.jsonl"))["pair_id"][:] == pairs["pair_id"][:]


def test_rows_that_make_several_pairs_lend_each_their_columns(jsonl: Any) -> None:
    answers = [{"response": text, "overall_score": score} for text, score in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    path = jsonl(
        [
            {"instruction": "Q", "completions": answers, "id": "r"},
            {"instruction": "P", "completions": answers, "id": "s"},
        ]
    )
    pairs, _ = read_pairs(DataSettings(path=path, pair_rule="all"), keep_columns=True)
    assert pairs["id"][:] == ["r"] * 3 + ["s"] * 3


def test_what_was_written_by_us_gets_no_second_id(jsonl: Any, tmp_path: Path) -> None:
    path = jsonl([{"prompt": "Q", "chosen": "a", "rejected": "b", "id": 1}])
    for name in ("one.jsonl", "two.jsonl"):
        pairs, _ = read_pairs(DataSettings(path=path), keep_columns=True)
        path = str(tmp_path / name)
        save_pairs(pairs, Path(path))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_what_cannot_be_written_is_one_line(tmp_path: Path, refused: Any) -> None:
    pairs = Dataset.from_dict({"pair_id": ["a"], "image": [b"\x00"]})
    refused(lambda: save_pairs(pairs, tmp_path / "out.txt"), "out.txt", ".parquet")
    refused(lambda: save_pairs(pairs, tmp_path / "out"), "not written in this format")
    refused(lambda: save_pairs(pairs, tmp_path / "out.csv"), "'image'", "bytes")
    assert not (tmp_path / "out.csv").exists()
    save_pairs(pairs, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1
