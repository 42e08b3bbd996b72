"""MT-Bench against stored judgements and prompts."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mixdpo.cli.main import main
from mixdpo.evaluation.benchmarks.mt_bench import (
    judge_values,
    mean_ratings,
    parse_rating,
    prompt_name,
    read_judge_prompts,
    read_questions,
    read_ratings,
)
from published import published


@pytest.fixture(scope="module")
def mt() -> Path:
    return published("mt_bench")


def table(path: Path, key: str = "model") -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_mt_bench_ratings_and_means(mt: Path, tmp_path: Path) -> None:
    judgements = pq.read_table(mt / "judgments_gpt4_single.parquet").to_pylist()
    for row in judgements:
        parsed = parse_rating(row["judgment"])
        assert (-1 if parsed is None else parsed) == pytest.approx(row["score"], abs=1e-6)
    assert len(judgements) == 2410
    expected = table(mt / "expected_scores.csv")
    ratings = read_ratings(mt / "judgments_gpt4_single.parquet")
    assert set(ratings) == set(expected)
    for model, one in ratings.items():
        result, row = mean_ratings(one, {}), expected[model]
        for name, key in (("average", "average"), ("first_turn", "first_turn"), ("second_turn", "second_turn")):
            assert result[name] == pytest.approx(float(row[key]), abs=1e-6)
        assert (result["n"], result["n_error"]) == (int(row["n"]), int(row["n_error"]))
    output = tmp_path / "out.json"
    arguments = ["eval", "mt-bench", "--verdicts", str(mt / "judgments_gpt4_single.parquet")]
    assert main([*arguments, "--questions", str(mt / "question.jsonl"), "--output", str(output)]) == 0
    assert len(json.loads(output.read_text())["models"]["granite-7b-lab"]["categories"]) == 8


def test_mt_bench_prompts_to_the_character(mt: Path) -> None:
    questions = {q.id: q for q in read_questions(mt / "question.jsonl", mt / "reference_answer_gpt-4.jsonl")}
    prompts = read_judge_prompts(mt / "judge_prompts.jsonl")
    vectors = json_lines(mt / "prompt_vectors_llama3-8b.jsonl.gz")
    for row in vectors:
        question = questions[str(row["question_id"])]
        assert prompt_name(question, row["turn"]) == row["judge_prompt"]
        values = judge_values(question, row["answer_turns"], row["turn"])
        messages = prompts[row["judge_prompt"]].filled(values)
        assert messages[1] == ("user", row["user_prompt"])
    assert len(vectors) == 160
