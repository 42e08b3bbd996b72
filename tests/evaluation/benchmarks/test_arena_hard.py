"""Arena-Hard against published tables and the output of the original code."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixdpo.cli.main import main
from mixdpo.common.bradley_terry import win_rate_of
from mixdpo.evaluation.benchmarks.arena_hard import follow_up, parse_label, read_battles
from mixdpo.evaluation.statistics.battles import Bootstrap, percentile_interval, score_at_equal_style, score_battles
from mixdpo.evaluation.statistics.style import markdown_counts, read_style
from published import published


@pytest.fixture(scope="module")
def arena() -> Path:
    return published("arena_hard")


def table(path: Path, key: str = "model") -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_arena_hard_official_tables(arena: Path) -> None:
    battles = read_battles(arena / "battles_official2.parquet", "v0.1")
    results = score_battles(battles, "v0.1", Bootstrap())
    assert results["gpt-4-0613"]["win_rate"] == pytest.approx(37.90, abs=0.005)
    assert results["gpt-3.5-turbo-0125"]["win_rate"] == pytest.approx(23.34, abs=0.005)
    oracle = json.loads((arena / "oracle_official2.json").read_text())["v01_code_at_0489bf3"]["bt_elo"]
    for model, result in results.items():
        assert result["elo"] + 1000 == pytest.approx(oracle[model], abs=0.001)


def test_arena_hard_18_models_and_their_intervals(arena: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    verdicts = str(arena / "battles_fork18.parquet")
    assert main(["eval", "arena-hard", "--verdicts", verdicts, "--output", str(output)]) == 0
    results = json.loads(output.read_text())["models"]
    expected = table(arena / "leaderboard_fork18.csv")
    assert set(results) == set(expected) - {"gpt-4-0314"}
    for model, result in results.items():
        row = expected[model]
        assert result["win_rate"] == pytest.approx(float(row["score"]), abs=0.01)
        ends = [float(row["rating_q025"]), float(row["rating_q975"])]
        assert result["interval"] == pytest.approx(ends, abs=0.01)
        low, high = result["prompt_interval"]
        assert high - low > result["interval"][1] - result["interval"][0]


@pytest.mark.parametrize("name", ["official2", "fork18"])
def test_arena_hard_current_code(arena: Path, name: str) -> None:
    battles = read_battles(arena / f"games_reconstructed_{name}.parquet", "v2")
    oracle = json.loads((arena / f"oracle_{name}.json").read_text())["current_code_at_196f6b8_numpy_seed0"]
    results = score_battles(battles, "v2", Bootstrap(seed=0, level=0.9))
    for row in oracle["plain"]:
        result = results[row["model"]]
        assert result["bootstrap_mean"] / 100 == pytest.approx(row["scores"], abs=1e-6)
        assert result["interval"] == pytest.approx([100 * row["lower"], 100 * row["upper"]], abs=1e-4)
        assert result["win_rate"] / 100 == pytest.approx(oracle["plain_mean"][row["model"]], abs=1e-12)


@pytest.mark.parametrize("name", ["official2", "fork18"])
@pytest.mark.parametrize("control", ["style", "length", "markdown"])
@pytest.mark.slow
def test_style_control_of_v01(arena: Path, name: str, control: Any) -> None:
    battles = read_battles(arena / f"battles_{name}.parquet", "v0.1")
    oracle = json.loads((arena / f"oracle_{name}.json").read_text())["v01_code_at_0489bf3"][control]
    bootstrap = Bootstrap(rounds=100 if "lower" in oracle else 1)
    style = read_style(arena / f"style_{name}.parquet")
    results, effects = score_at_equal_style(battles, style, "gpt-4-0314", "v0.1", control, bootstrap)
    assert list(effects.values()) == pytest.approx(list(oracle["style_coef"].values()), abs=1e-4)
    for model, result in results.items():
        assert result["win_rate"] == pytest.approx(oracle["winrate"][model], abs=0.006)
        if "lower" in oracle:
            ends = [oracle["lower"][model], oracle["upper"][model]]
            assert result["interval"] == pytest.approx(ends, abs=0.006)


@pytest.mark.parametrize("name", ["official2", "fork18"])
@pytest.mark.slow
def test_style_control_of_the_current_code(arena: Path, name: str) -> None:
    battles = read_battles(arena / f"games_reconstructed_{name}.parquet", "v2")
    oracle = json.loads((arena / f"oracle_{name}.json").read_text())["current_code_at_196f6b8_numpy_seed0"]
    style = read_style(arena / f"style_{name}.parquet")
    results, _ = score_at_equal_style(battles, style, "gpt-4-0314", "v2", "style", Bootstrap(seed=0, level=0.9))
    for row in oracle["style"]:
        if row["model"] != "gpt-4-0314":
            result = results[row["model"]]
            # The original takes 50 steps of its solver from each start; "style_long" took as many as it needs.
            assert result["win_rate"] == pytest.approx(100 * oracle["style_long"][row["model"]], abs=0.1)
            assert result["bootstrap_median"] == pytest.approx(100 * row["scores"], abs=0.7)
            assert result["interval"] == pytest.approx([100 * row["lower"], 100 * row["upper"]], abs=1.2)


def test_markdown_counts(arena: Path) -> None:
    rows = json_lines(arena / "style_counter_vectors_o3-mini.jsonl.gz")
    for row in rows:
        expected = tuple(sum(row[name].values()) for name in ("header_count", "list_count", "bold_count"))
        assert markdown_counts(row["answer"]) == expected, row["uid"]
    assert len(rows) > 50


def test_published_bootstrap_intervals(arena: Path) -> None:
    """The interval step alone, on the 1000 draws that were published with their ends."""
    for row in json_lines(arena / "bootstrap_stats_arena_hard_winrate.jsonl.gz"):
        low, high = percentile_interval(np.array(row["results"])[:, None], "v2", 0.95)
        assert [*low, *high] == pytest.approx([row["lower"], row["upper"]], abs=1e-6)
    for row in json_lines(arena / "bootstrap_stats_arena_hard_bt_elo.jsonl.gz"):
        rates = win_rate_of(np.array(row["results"]) - 1000)
        low, high = percentile_interval(rates[:, None], "v0.1", 0.95)
        assert [*low, *high] == pytest.approx([*win_rate_of(np.array([row["lower"], row["upper"]]) - 1000)], abs=1e-6)


def test_v01_asks_once_more_after_a_judgement_without_a_label() -> None:
    assert follow_up("I think") is not None
    assert follow_up("[[A>B]] [[B>A]]") is None, "that contradicts itself, and stays unread"
    assert parse_label("[[A>B]] [[B>A]]", "v0.1") is None
    assert parse_label("[[A>B]] [[B>A]]", "v2") == "B>A"
