"""What a benchmark of one's own takes: one object, and its name in `BENCHMARKS`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest

from mixdpo.cli.main import main
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.benchmark import Column, JudgedBenchmark, MetricNames, Record, Scored, models_table
from mixdpo.evaluation.benchmarks import BENCHMARKS, benchmark_of
from mixdpo.evaluation.items import ModelItems, read_transcripts
from mixdpo.judges.grades import grade_task

JUDGE = """import json, sys
open(sys.argv[1], "a").write("started ")
for line in sys.stdin:
    print(json.loads(line)["answer"].count("u"))
"""


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    most: float = field(default=9.0, metadata={"help": "largest mark", "above": 0})


def toy_items(verdicts: Sequence[Path], options: ToyOptions | None) -> dict[str, ModelItems]:
    (table,) = map(read_table, verdicts)
    rows, texts = table.rows(), read_transcripts([table])
    return {
        model: ModelItems({"marks": {row["id"]: row["score"] for row in rows if row["model"] == model}}, texts[model])
        for model in texts
    }


def toy_score(verdicts: Sequence[Path], options: ToyOptions, run: Record | None) -> Scored:
    items = toy_items(verdicts, options)
    marks = {model: np.minimum(options.most, list(own.scores["marks"].values())) for model, own in items.items()}
    return Scored(models={model: {"marks": float(own.mean())} for model, own in marks.items()}, items=items)


TOY = JudgedBenchmark(
    help="Counts a letter.",
    stored_as=("toy",),
    options=ToyOptions,
    metrics=MetricNames(headlines=("marks",), labels={"marks": "marks of 9"}, lower_is_better=("marks",)),
    table=lambda record: models_table("toy", record, "marks", [Column.number("marks", "marks")]),
    judge_prompt="with {question} and {answer}",
    task=lambda sources, options: grade_task(sources, None, 9),
    score=toy_score,
    items=toy_items,
)


def test_a_benchmark_of_ones_own_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is run, stored, scored again, tabulated and compared."""
    monkeypatch.setitem(BENCHMARKS, "toy", TOY)
    for name in ("much", "none"):
        letters = {"much": "u", "none": "o"}[name]
        rows = [{"id": str(row), "prompt": f"p{row}", "answer": letters * (row + 1)} for row in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(JUDGE)
    output, started = tmp_path / "toy.json", tmp_path / "started"
    judge = shlex.join([sys.executable, str(tmp_path / "judge.py"), str(started)])
    words = ["--model", str(tmp_path / "much.jsonl"), "--model", f"none={tmp_path / 'none.jsonl'}"]
    words += ["--judge", judge, "--judge-kind", "program", "--output", str(output)]
    assert main(["eval", "toy", *words, "--dry-run"]) == 0
    assert not started.exists()
    assert main(["eval", "toy", *words, "--most", "4"]) == 0
    record = json.loads(output.read_text())
    assert record["models"] == {"much": {"marks": (1 + 2 + 3 + 9 * 4) / 12}, "none": {"marks": 0.0}}
    assert record["judge"]["engine"] == "program"
    printed = capsys.readouterr().out
    assert "12 prompts of much, 12 prompts of none; 24 verdicts" in printed
    assert printed.index("much") < printed.rindex("none")

    again = tmp_path / "again.json"
    assert main(["eval", "toy", "--verdicts", str(tmp_path / record["verdicts"]), "--output", str(again)]) == 0
    assert json.loads(again.read_text())["models"]["much"]["marks"] == (45 + 3 * 9) / 12
    assert started.read_text() == "started "
    assert main(["eval", "toy", "--most", "0", "--verdicts", "x", "--output", str(again)]) == 2
    assert "--most" in capsys.readouterr().err

    (tmp_path / record["items"]).unlink()  # as a result is that was stored without them
    assert main(["compare", str(output), "--output", str(tmp_path / "compared")]) == 0
    (compared,) = json.loads((tmp_path / "compared" / "comparison.json").read_text())["benchmarks"]
    assert (compared["headline"], list(compared["models"])) == ("marks", ["none", "much"])
    assert compared["differences"]["marks"][0]["better"] + compared["differences"]["marks"][0]["worse"] == 12
    assert "marks of 9" in (tmp_path / "compared" / "comparison.txt").read_text()
    assert "uuuuuuuu" in (tmp_path / "compared" / "comparison.html").read_text()


def test_help_of_all_commands_names_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    listed = capsys.readouterr().out
    for name, benchmark in BENCHMARKS.items():
        assert name in listed
        assert all(benchmark_of(stored) is benchmark for stored in benchmark.stored_as)
        assert main(["eval", name, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert " ".join(benchmark.help.split()) in shown
        for option in fields(benchmark.options):
            if {"argument", "section"}.isdisjoint(option.metadata):
                assert f"--{option.name.replace('_', '-')}" in shown
                assert option.metadata["help"].split()[-1] in shown


@pytest.mark.parametrize(
    ("bench", "content", "words"),
    [
        ("alpaca-eval", "model,preference\na,1.2\n", ("column 'output_1'",)),
        ("alpaca-eval", "modle,preference\na,1.2\n", ("column 'model'", "did you mean 'modle'")),
        ("alpaca-eval", "model,preference,len_1,len_2\na,1.2,3,x\n", ("row 2", "'len_2'")),
        ("alpaca-eval", "model,preference,len_1,len_2\na,1.2,3,4\n", ("1 of 805", "instruction_index")),
        ("arena-hard", "model,question_id,winner\na,1,me\n", ("row 2", "model, baseline or tie")),
        ("arena-hard", "model,question_id,game1,game2\na,1,x,y\n", ("no game has a valid label",)),
        ("mt-bench", "model,question_id,turn,score\na,81,1,-1\n", ("no judgement has a rating",)),
    ],
)
def test_bad_verdicts_are_one_line(
    bench: str, content: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts, output = tmp_path / "verdicts.csv", tmp_path / "out.json"
    verdicts.write_text(content)
    assert main(["eval", bench, "--verdicts", str(verdicts), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not output.exists()
