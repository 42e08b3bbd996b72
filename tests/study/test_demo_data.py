"""The demo's shipped tables: true ratings, separate splits, and prompts that the script still makes."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

import mixdpo.evaluation
from mixdpo.evaluation.constraints import KINDS, Constraint, constraints_from_text, constraints_met
from mixdpo.generation.chat_model import Completion

FOLDER = Path(mixdpo.evaluation.__file__).parent / "data"
SPLITS = ("train", "validation", "test")
PAIR_SPLITS = ("train", "validation")


def rows(split: str) -> list[dict[str, Any]]:
    return pq.read_table(FOLDER / f"{split}.parquet").to_pylist()


def prompt_texts(split: str) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows(split)]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_demo_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_demo_data"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", PAIR_SPLITS)
def test_ratings_are_the_constraints_met(split: str) -> None:
    for row in rows(split):
        demands = constraints_from_text(row["demands"])
        assert len(demands) == 3
        assert [message["role"] for message in row["prompt"] + row["chosen"] + row["rejected"]] == [
            "user",
            "assistant",
            "assistant",
        ]
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert row["score_chosen"] == constraints_met(chosen, demands) >= 1
        assert row["score_rejected"] == constraints_met(rejected, demands)
        assert row["score_chosen"] >= row["score_rejected"]
        assert chosen != rejected


@pytest.mark.parametrize("split", SPLITS)
def test_constraints_are_those_of_the_prompt(split: str) -> None:
    for row in rows(split):
        demands = constraints_from_text(row["demands"])
        text = row["prompt"][0]["content"]
        assert text.endswith(" ".join(demand.instruction for demand in demands))
        concerns = [concern for demand in demands for concern in KINDS[demand.kind].concerns]
        assert len(concerns) == len(set(concerns))


def test_margins() -> None:
    table = rows("train")
    margins = Counter(row["score_chosen"] - row["score_rejected"] for row in table)
    assert 300 <= len(table) <= 700
    assert set(margins) == {0.0, 1.0, 2.0, 3.0}
    assert 0.10 <= margins[0.0] / len(table) <= 0.15
    clear = Counter(row["prompt"][0]["content"] for row in table if row["score_chosen"] > row["score_rejected"])
    assert max(clear.values()) <= 2


def test_no_pair_twice() -> None:
    for split in PAIR_SPLITS:
        pairs = [tuple(row[name][0]["content"] for name in ("prompt", "chosen", "rejected")) for row in rows(split)]
        assert len(pairs) == len(set(pairs))
    assert len(prompt_texts("validation")) == len(set(prompt_texts("validation")))
    assert len(prompt_texts("test")) == len(set(prompt_texts("test"))) >= 60


def test_splits_share_no_prompt_and_no_task(script: ModuleType) -> None:
    tasks = script.TASKS.read_text(encoding="utf-8").splitlines()
    assert len(tasks) == len(set(tasks)) == sum(script.TASKS_PER_SPLIT.values())
    used = {
        split: {next(task for task in tasks if text.startswith(task)) for text in prompt_texts(split)}
        for split in SPLITS
    }
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not used[first] & used[second]
        assert not set(prompt_texts(first)) & set(prompt_texts(second))


def test_script_makes_these_prompts(script: ModuleType) -> None:
    prompts = script.make_prompts(script.TASKS.read_text(encoding="utf-8").splitlines(), script.SEED)
    texts = {split: [prompt.text for prompt in prompts[split]] for split in SPLITS}
    assert prompt_texts("test") == texts["test"]
    for split in PAIR_SPLITS:
        assert set(prompt_texts(split)) <= set(texts[split])


def test_size_and_hashes() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = [FOLDER / f"{split}.parquet" for split in SPLITS]
    assert sum(path.stat().st_size for path in files) < 600_000
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in readme


def answers_with(scores: list[int], finished: bool = True) -> list[Completion]:
    """Answers that meet so many of the constraints "no commas", "question" and "exclamation"."""
    texts = {0: "a, b", 1: "ab", 2: "ab?", 3: "ab?!"}
    written = [texts[score] + " c" * position for position, score in enumerate(scores)]
    return [Completion(text=text, finished=finished, tokens_out=3) for text in written]


DEMANDS = (Constraint("no_commas"), Constraint("question"), Constraint("exclamation"))


@pytest.mark.parametrize(
    ("scores", "margins"),
    [
        ([3, 2, 2, 2, 1], [1, 2]),  # one of each lower rating before a second of the same
        ([2, 1, 1, 1], [1, 1]),
        ([2, 2, 1], [1, 0]),
        ([2, 2, 2], [0]),
        ([0, 0, 0], []),
        ([2], []),
        ([], []),
    ],
)
def test_pairs_of_a_prompt(script: ModuleType, scores: list[int], margins: list[int]) -> None:
    prompt = script.Prompt("Write.", DEMANDS)
    for seed in range(5):
        pairs = script.pairs_of_prompt(prompt, answers_with(scores), random.Random(seed))
        assert sorted(pair.margin for pair in pairs) == sorted(margins)
        assert {pair.chosen.score for pair in pairs} <= {max(scores, default=0)}


def test_cut_and_repeated_answers_are_left_out(script: ModuleType) -> None:
    prompt = script.Prompt("Write.", DEMANDS)
    answers = [*answers_with([3], finished=False), *answers_with([1]), *answers_with([1]), *answers_with([0])]
    pairs = script.pairs_of_prompt(prompt, answers, random.Random(0))
    assert [(pair.chosen.score, pair.rejected.score) for pair in pairs] == [(1, 0)]


def test_ties_are_thinned_to_their_share(script: ModuleType) -> None:
    prompt = script.Prompt("Write.", DEMANDS)
    better, worse = script.Rated("ab?", 2), script.Rated("ab", 1)
    pairs = [script.Pair(prompt, better, worse)] * 70 + [script.Pair(prompt, better, better)] * 100
    left = script.thin_ties(pairs, 0.125, random.Random(0))
    assert Counter(pair.margin for pair in left) == {1: 70, 0: 10}
    few = script.thin_ties(pairs[:71], 0.125, random.Random(0))
    assert Counter(pair.margin for pair in few) == {1: 70, 0: 1}
