"""The row of the file, from 1: in pairs, plans, flagged rows, pages, logs and messages."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from mixdpo import AuditSettings, Plan, audit, load_pairs, make_plan, score
from mixdpo.auditing.clean import clean
from mixdpo.cli.main import main

ROW = {"prompt": "Why {n}?", "chosen": "good {n}", "rejected": "bad {n}", "score_chosen": 2.0, "score_rejected": 1.0}
QUICK = AuditSettings(near_duplicates=False)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {name: value.format(n=n) if isinstance(value, str) else value for name, value in ROW.items()}
        for n in range(first, first + count)
    ]


def lines(items: list[Any]) -> str:
    return "".join(item if isinstance(item, str) else json.dumps(item) + "\n" for item in items)


@pytest.mark.parametrize("plain", [True, False], ids=["texts", "messages"])
def test_a_row_is_the_line_of_json_lines(plain: bool, tmp_path: Path) -> None:
    one, two, three = rows(3)
    items = [one, two, three]
    if not plain:
        items = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in items]
    path = tmp_path / "a.jsonl"
    path.write_text(lines([items[0], "\n", "  \n", {**items[1], "chosen": " "}, items[2]]))
    assert load_pairs(str(path))["source_row"][:] == [1, 5]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(items).encode()))
    assert load_pairs(str(tmp_path / "b.jsonl.gz"))["source_row"][:] == [1, 2, 3]


def test_a_row_is_the_element_of_a_list_and_the_line_a_csv_record_starts_on(tmp_path: Path) -> None:
    listed = tmp_path / "a.json"
    listed.write_text(json.dumps(rows(3), indent=2))
    assert load_pairs(str(listed))["source_row"][:] == [1, 2, 3]
    table = tmp_path / "a.csv"
    table.write_text('prompt,chosen,rejected\nq,a,b\n"two\nlines",a,b\n\nq,c,d\n')
    assert load_pairs(str(table))["source_row"][:] == [2, 3, 6]


def test_several_files_are_named(tmp_path: Path) -> None:
    for number, name in enumerate(("1.jsonl", "2.jsonl")):
        (tmp_path / name).write_text(lines(["\n", *rows(2, 10 * number)]))
    pairs = load_pairs(str(tmp_path / "*.jsonl"))
    assert pairs["source_row"][:] == [2, 3, 2, 3]
    assert [Path(file).name for file in pairs["source_file"]] == ["1.jsonl"] * 2 + ["2.jsonl"] * 2
    alone = load_pairs(str(tmp_path / "1.jsonl"))
    assert "source_file" not in alone.column_names
    assert alone["pair_id"][:] == pairs["pair_id"][:2]


def test_what_we_wrote_is_numbered_anew(tmp_path: Path) -> None:
    load_pairs(rows(3)).select([2, 1]).to_parquet(tmp_path / "a.parquet")
    assert load_pairs(str(tmp_path / "a.parquet"))["source_row"][:] == [1, 2]


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """Pairs of which the one in line 5 has equal scores, with a blank line 2."""
    path = tmp_path / "a.jsonl"
    one, two, three, four = rows(4)
    path.write_text(lines([one, "\n", two, three, {**four, "score_chosen": 1.0}]))
    return path


def test_plans_and_audits_say_the_row_of_the_file(tied: Path, tmp_path: Path) -> None:
    pairs = load_pairs(str(tied))
    make_plan(score(pairs)).save(tmp_path / "plan.parquet")
    table = pq.read_table(tmp_path / "plan.parquet")
    assert table["row"].to_pylist() == [1, 3, 4, 5]
    assert table["pair_id"].to_pylist() == pairs["pair_id"][:]
    again = Plan.load(tmp_path / "plan.parquet")
    again.save(tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").equals(table)

    report = audit(pairs, settings=QUICK)
    ties = report.flagged().filter(pl.col("finding") == "ties")
    assert ties.select("row", "pair_id", "pair").rows() == [(5, pairs["pair_id"][3], 3)]
    assert {example["row"] for example in report.examples if "ties" in example["of"]} == {5}
    report.save(tmp_path / "report")
    left, log = clean(pairs, tmp_path / "report", ["ties"])
    assert len(left) == 3
    assert log.filter(pl.col("action") == "dropped")["row"].to_list() == [5]
    assert log["new_row"].to_list() == [1, 2, 3, None]


def test_messages_say_the_row_of_the_file(tied: Path, tmp_path: Path, refused: Any) -> None:
    pairs = load_pairs(str(tied))
    broken = pairs.add_column("margin/own", [1.0, 2.0, float("nan"), 3.0])
    refused(lambda: make_plan(broken, metric="own"), "row 4", "margin/own")
    refused(lambda: score(broken, "combine"), "row 4")
    rated = pairs.add_column("ratings_chosen", [[1.0]] * 4).add_column("ratings_rejected", [[1.0]] * 3 + [[]])
    refused(lambda: score(rated, "agreement"), "row 5")


def test_the_command_plan_writes_ids(tied: Path, tmp_path: Path) -> None:
    assert main(["plan", str(tied), "-o", str(tmp_path / "plan.parquet")]) == 0
    assert pq.read_table(tmp_path / "plan.parquet").column_names[:2] == ["pair_id", "row"]
