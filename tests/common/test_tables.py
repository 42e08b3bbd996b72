"""Names in tables may hold anything: markup, control characters, line ends, LaTeX's arguments."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from mixdpo.cli.main import main
from mixdpo.common.progress import rate_bar
from mixdpo.common.tables import (
    TextTable,
    as_latex,
    as_text,
    plain_console,
    print_table,
    range_text,
    results_table,
    signed_text,
)

NAMES = ["m[/x]", "m[red]y", "[bold]z", "[link=http://x]q[/link]", ":fire:", "*star"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_names_are_printed_as_they_are(capsys) -> None:
    for name in NAMES:
        print_table(TextTable(name, ["model", name], [[name, "1.0"]]))
        table = results_table(name, "model", name, caption=name)
        table.add_row(name, "1.0")
        plain_console().print(table)
        assert capsys.readouterr().out.count(name) == 7


def test_no_control_characters_reach_a_terminal_or_a_text_file(capsys) -> None:
    table = TextTable("a\x1b[31m title\n", ["model\r", "n"], [["two\nlines\x1b[2J", "1"], ["\x07bell", "2"]])
    text = as_text(table)
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["model", "n"], ["-" * len("two lines [2J  n")], ["two", "lines", "[2J", "1"], ["bell", "2"],
    ]  # fmt: skip
    print_table(table)
    for printed in (text, capsys.readouterr().out):
        assert all(character.isprintable() or character == "\n" for character in printed)


def test_no_row_of_latex_begins_with_an_argument_of_the_line_before() -> None:
    lines = as_latex(TextTable("models", ["[model]", "n"], [[name, "1"] for name in NAMES])).splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("[", "*"))]
    assert r"{}[bold]z & 1 \\" in lines
    assert r"{}*star & 1 \\" in lines


def test_results_of_models_with_such_names_are_shown(tmp_path, capsys) -> None:
    for number, name in enumerate(NAMES):
        games = [
            {
                "model": name, "id": str(row), "prompt": f"p{row}", "output_1": "b", "output_2": "m",
                "game1": ["A>B", "B>A", "A=B"][row % 3], "game2": ["A>B", "B>A"][row % 2],
                "judgment": ["", ""], "failure": None,
            }
            for row in range(6)
        ]  # fmt: skip
        verdicts = tmp_path / f"{number}.jsonl"
        verdicts.write_text("".join(json.dumps(game) + "\n" for game in games))
        words = ["--verdicts", str(verdicts), "--output", str(tmp_path / f"{number}.json")]
        assert main(["eval", "pairwise", *words]) == 0
        assert name in capsys.readouterr().out


def test_scores_of_columns_with_such_names_are_shown(tmp_path, jsonl, capsys) -> None:
    column = "margin/[/x]"
    rows = [
        {"prompt": f"q{i}", "chosen": f"a b {i}", "rejected": f"c {i}", "score_chosen": i % 5, "score_rejected": 1}
        for i in range(8)
    ]
    data = jsonl([{**row, column: float(i)} for i, row in enumerate(rows)], "a[b].jsonl")
    assert main(["score", data, "--metric", "rating", "--output", str(tmp_path / "scored.parquet")]) == 0
    assert "[/x]" in capsys.readouterr().out
    assert main(["plan", data, "--plan.metric", "'[/x]'", "--output", str(tmp_path / "plan.parquet")]) == 0


def test_bars_take_no_text_for_markup() -> None:
    shown = io.StringIO()
    with rate_bar(Console(file=shown, force_terminal=True, width=200)) as bar:
        bar.add_task("answers of m[/x]", total=2, rate="[red]", note="[/]")
    assert "answers of m[/x]" in shown.getvalue()
    assert "[red]" in shown.getvalue()


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert [signed_text(value) for value in (-0.4, 0.4, -0.6, 12.0)] == ["0", "0", "-1", "+12"]
    assert signed_text(-0.04, 1) == "0.0"


def test_a_range_of_one_value_is_that_value() -> None:
    assert range_text(0.0, 0.0) == "0"
    assert range_text(1.0, 1.0001) == "1"
    assert range_text(-0.5, 1.25) == "-0.5 to 1.25"
