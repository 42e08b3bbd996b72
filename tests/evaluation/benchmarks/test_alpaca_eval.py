"""AlpacaEval 2 against the published table and stored judgements."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixdpo.cli.main import main
from mixdpo.evaluation.benchmarks.alpaca_eval import (
    control_length,
    first_token_score,
    is_swapped,
    preference,
    ranking_score,
    read_verdicts,
    score_verdicts,
)
from mixdpo.evaluation.statistics.length_control import read_length_control
from published import published


@pytest.fixture(scope="module")
def alpaca() -> Path:
    return published("alpaca_eval")


def table(path: Path, key: str = "model") -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def length_control_files(folder: Path) -> tuple[Path, Path]:
    return folder / "df_gamed_surrogate.csv.gz", folder / "instruction_difficulty_recovered.csv"


def test_alpaca_eval_win_rates(alpaca: Path) -> None:
    expected = table(alpaca / "published_leaderboard.csv")
    verdicts = read_verdicts(alpaca / "annotations.parquet")
    seen = 0
    for model, result in score_verdicts(verdicts, None):
        if model not in expected:
            continue
        row = expected[model]
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert result[name] == pytest.approx(float(row[name]), abs=1e-6), (model, name)
        for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
            assert result[name] == int(row[name]), (model, name)
        assert abs(result["avg_length"] - int(row["avg_length"])) <= (0 if result["n_total"] == 805 else 2)
        seen += 1
    assert seen == 39


def test_length_control_at_the_published_penalty(alpaca: Path) -> None:
    pytest.importorskip("sklearn", reason="length control needs the extra eval")
    expected = table(alpaca / "recomputed_lc.csv")
    control = read_length_control(*length_control_files(alpaca))
    leaderboard = table(alpaca / "published_leaderboard.csv")
    seen = 0
    for one in read_verdicts(alpaca / "annotations.parquet"):
        if not expected.get(one.model, {}).get("C_selected"):
            continue
        row = leaderboard[one.model]
        fitted = control_length(one, control, C=float(expected[one.model]["C_selected"]), align="row")
        assert fitted.win_rate == pytest.approx(float(row["length_controlled_winrate"]), abs=1e-4), one.model
        if row["lc_standard_error"]:
            assert fitted.standard_error == pytest.approx(float(row["lc_standard_error"]), abs=1e-4), one.model
        fixed = control_length(one, control, C=2.78, align="row")
        # 0.141 for gpt4_gamed, whose published fit has C = 167; 0.131 at most for the others.
        assert fixed.win_rate == pytest.approx(float(row["length_controlled_winrate"]), abs=0.1415), one.model
        if expected[one.model]["lc_exact"]:
            exact = control_length(one, control, C=float(expected[one.model]["C_selected"]) * 1.00001, align="row")
            assert exact.win_rate == pytest.approx(float(expected[one.model]["lc_exact"]), abs=2e-5), one.model
        seen += 1
    assert seen == 38


def test_cross_validated_length_control(alpaca: Path, tmp_path: Path) -> None:
    """Through the command line, 805 prompts at a time: all that a person does after a judge's run."""
    pytest.importorskip("sklearn", reason="length control needs the extra eval")
    leaderboard = table(alpaca / "published_leaderboard.csv")
    gamed, difficulty = map(str, length_control_files(alpaca))
    verdicts = pq.read_table(alpaca / "annotations.parquet")
    names = np.array(verdicts.column("model").to_pylist())
    for model in ("NullModel", "vicuna-13b-v1.5", "FuseChat-Llama-3.2-3B-Instruct"):
        file, output = tmp_path / f"{model}.parquet", tmp_path / f"{model}.json"
        pq.write_table(verdicts.filter(names == model), file)
        started = time.perf_counter()
        arguments = ["eval", "alpaca-eval", "--verdicts", str(file), "--align", "row"]
        assert main([*arguments, "--gamed", gamed, "--difficulty", difficulty, "--output", str(output)]) == 0
        assert time.perf_counter() - started < 5
        result = json.loads(output.read_text())["models"][model]
        wanted = float(leaderboard[model]["length_controlled_winrate"])
        assert result["length_controlled_winrate"] == pytest.approx(wanted, abs=0.2)


def test_the_two_alignments_part_after_a_missing_row(alpaca: Path) -> None:
    pytest.importorskip("sklearn", reason="length control needs the extra eval")
    control = read_length_control(*length_control_files(alpaca))
    whole = next(one for one in read_verdicts(alpaca / "annotations.parquet") if one.model == "vicuna-13b-v1.5")
    by = {align: control_length(whole, control, C=2.78, align=align).win_rate for align in ("row", "instruction")}  # type: ignore[arg-type]
    assert by["row"] == by["instruction"]
    keep = np.arange(805) != 3
    fields = ("preference", "instruction", "baseline_length", "model_length")
    missing = type(whole)(whole.model, *(getattr(whole, name)[keep] for name in fields))
    by = {align: control_length(missing, control, C=2.78, align=align).win_rate for align in ("row", "instruction")}  # type: ignore[arg-type]
    assert by["row"] != pytest.approx(by["instruction"], abs=0.01)


def lines(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_stored_order_and_preferences_of_alpaca_eval() -> None:
    folder = published("alpaca_eval")
    for row in lines(folder / "instructions.jsonl.gz"):
        assert is_swapped(row["instruction"]) == row["switched"]
    vectors = lines(folder / "parser_vectors_vicuna-13b-v1.5.jsonl.gz")
    assert len(vectors) > 100
    for row in vectors:
        if row["top_logprobs"] is None:  # identical answers, which no judge saw
            assert row["preference"] == 1.5
            continue
        score = first_token_score([tuple(pair) for pair in row["top_logprobs"]])
        found = preference(score, row["switched"])
        assert found == pytest.approx(row["preference"], abs=1e-9)


def test_preferences_that_cannot_be_read() -> None:
    assert first_token_score([("The", -0.1)]) is None
    assert first_token_score([("m", -0.1)]) == 1
    assert preference(None, True) is None
    assert ranking_score('[{"model": "model_1", "rank": 2}, {"model": "model_2", "rank": 1}]') == 0
    assert ranking_score("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]") == 1
    for text in ("", "both are good", "[1, 2]", '[{"model": "model_1", "rank": 1}]', "[__import__('os')]"):
        assert ranking_score(text) is None
