"""Where a study's pairs come from: raters, splits that share nothing, judges that fail in one line, subsets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mixdpo import load_pairs, score
from mixdpo.common.errors import RunError
from mixdpo.evaluation.constraints import constraints_from_text, constraints_met
from mixdpo.generation.chat_model import Completion
from mixdpo.study.constraint_task import DATA, ConstraintTask, RaterSettings, rate
from mixdpo.study.file_task import FileTask
from mixdpo.study.single_run import choose_subset
from mixdpo.study.study_settings import SubsetSettings
from synthetic import chat_pairs, chat_rows


def graded(margins: list[int]) -> list[dict]:
    return [
        {"chosen": f"good {i}", "rejected": f"bad {i}", "score_chosen": 1.0 + margin, "score_rejected": 1.0}
        for i, margin in enumerate(margins)
    ]


def test_a_noisy_rater_flips_small_margins_more_often() -> None:
    rows = graded([1] * 4000 + [2] * 4000)
    rated = rate(rows, RaterSettings(noise=0.7, tie_share=0.0), np.random.default_rng(0))
    flipped = np.array([row["chosen"].startswith("bad") for row in rated])
    # The difference of two errors of 0.7 each has a deviation of 0.99: Phi(-1.01) and Phi(-2.02).
    assert flipped[:4000].mean() == pytest.approx(0.156, abs=0.02)
    assert flipped[4000:].mean() == pytest.approx(0.022, abs=0.01)
    assert all(row["score_chosen"] >= row["score_rejected"] for row in rated)
    # The second rater errs on its own: it agrees more often where the first one saw a large margin.
    margin = np.array([row["score_chosen"] - row["score_rejected"] for row in rated])
    agrees = np.array([row["margin/second_rater"] > 0 for row in rated])
    assert agrees[margin > 2].mean() > agrees[margin < 0.5].mean() + 0.2


def test_ties_are_the_smallest_margins_and_their_labels_coin_flips() -> None:
    rated = rate(graded([1] * 3000), RaterSettings(noise=0.7, tie_share=0.12), np.random.default_rng(1))
    tied = np.array([row["score_chosen"] == row["score_rejected"] for row in rated])
    assert tied.sum() == 360
    assert np.mean([row["chosen"].startswith("bad") for row in np.array(rated)[tied]]) == pytest.approx(0.5, abs=0.1)
    untouched = rate(graded([1, 2, 0]), RaterSettings(noise=0.0, tie_share=0.0), np.random.default_rng(2))
    assert [row["score_chosen"] - row["score_rejected"] for row in untouched] == [1, 2, 0]
    assert [row["chosen"] for row in untouched[:2]] == ["good 0", "good 1"]


def test_the_constraint_task_draws_pairs_by_seed_and_shares_no_task_between_splits(tmp_path: Path) -> None:
    task = ConstraintTask(pairs=100, rater=RaterSettings(), prompts_per_task=5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        task.write_train(seed, tmp_path / f"{name}.parquet")
    rows = {name: pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in "abc"}
    assert len(rows["a"]) == 100
    assert rows["a"] == rows["b"]
    assert rows["a"] != rows["c"]
    held_out = task.held_out("test", tmp_path)
    trained = {row["prompt"][-1]["content"] for name in "ac" for row in rows[name]}
    assert not trained & {prompt[-1]["content"] for prompt in held_out.prompts}
    assert not trained & set(held_out.pair_groups)
    tasks = set(held_out.prompt_groups)
    assert len(held_out.prompts) == 5 * len(tasks) == 5 * 26
    assert not any(text.startswith(task) for text in trained for task in tasks)
    assert len({prompt[-1]["content"] for prompt in held_out.prompts}) == 5 * 26
    # Held-out pairs keep the truth: the number of constraints that each answer meets.
    assert held_out.pairs is not None
    demands = {
        row["prompt"][-1]["content"]: row["demands"] for row in pq.read_table(str(DATA / "train.parquet")).to_pylist()
    }
    for row in held_out.pairs.select(range(20)):
        asked = constraints_from_text(demands[row["prompt"][-1]["content"]])
        assert constraints_met(row["chosen"][-1]["content"], asked) == row["score_chosen"]


def test_the_constraint_task_grades_by_the_demands_of_each_prompt(tmp_path: Path) -> None:
    task = ConstraintTask(pairs=10)
    texts = ["", "Well, this is a short answer. And another!"]
    prompts = task.held_out("validation", tmp_path).prompts
    answers = [Completion(text=texts[i % 2], finished=True, tokens_out=3) for i in range(len(prompts))]
    found = task.judge("validation", answers)["demands_met"]
    asked = {
        row["prompt"][-1]["content"]: constraints_from_text(row["demands"])
        for row in pq.read_table(str(DATA / "validation.parquet")).to_pylist()
    }
    wanted = [asked[prompt[-1]["content"]] for prompt in prompts]
    assert len(wanted) == 3 * len(set(task.held_out("validation", tmp_path).prompt_groups))
    assert found == [constraints_met(texts[i % 2], demands) for i, demands in enumerate(wanted)]


@pytest.fixture
def files(tmp_path: Path):
    rows = chat_rows(40)
    for number, row in enumerate(rows):
        row["prompt"][0]["content"] += f" {number}"
    for name, part in (("train", rows[:30]), ("test", rows[30:]), ("overlap", rows[29:])):
        Dataset.from_list(part).to_parquet(tmp_path / f"{name}.parquet")

    def make(test: str = "test", **settings) -> FileTask:
        paths = {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / f"{test}.parquet")}
        return FileTask(**paths, **{"pairs": 10, "held_out_pairs": 8, "prompts": 3, **settings})

    return make


def test_the_file_task_sets_validation_prompts_aside(files, tmp_path: Path) -> None:
    task = files()
    assert task.primary == "preference_accuracy"
    validation = task.held_out("validation", tmp_path)
    assert len(validation.pairs) == 8
    assert len(validation.prompts) == 3
    task.write_train(1, tmp_path / "drawn.parquet")
    drawn = load_pairs(str(tmp_path / "drawn.parquet"))
    assert len(drawn) == 10
    assert not {p[0]["content"] for p in drawn["prompt"]} & {p[0]["content"] for p in validation.pairs["prompt"]}
    assert files(pairs=11).fingerprint() != task.fingerprint() == files().fingerprint()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test": "overlap"}, ["share 1 prompts", "hold out whole prompts"]),
        ({"pairs": 30}, ["bench.pairs is 30", "22 pairs can be trained"]),
        ({"test": "none"}, ["no such file"]),
        ({"judge_command": ["judge"], "prompts": 0}, ["prompts above 0"]),
        ({"held_out_pairs": 1}, ["bench.held_out_pairs is 1"]),
    ],
)
def test_the_file_task_refuses_what_cannot_be_measured(files, settings, words, refused) -> None:
    refused(lambda: files(**settings), *words)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no model here')", "ended with status 1: no model here"),
        ("print('good', 'better', 'best', sep=chr(10))", "not a number"),
        ("print(1, 'inf', 2, sep=chr(10))", "not finite"),
        ("print(1)", "wrote 1 lines for 3 cases"),
    ],
)
def test_a_judge_that_fails_says_why(files, program: str, words: str) -> None:
    task = files(judge_command=[sys.executable, "-c", program])
    assert task.primary == "judge"
    with pytest.raises(RunError, match=words):
        task.judge("test", [Completion(text="yes", finished=True)] * 3)
    with pytest.raises(RunError, match="cannot be started"):
        files(judge_command=["/no/such/program"]).judge("test", [Completion(text="yes", finished=True)] * 3)


def test_subsets_are_equal_thirds_by_margin(tmp_path: Path) -> None:
    pairs = score(chat_pairs(tmp_path, 30))
    margins = {}
    for part in ("easy", "middle", "hard", "random"):
        chosen = choose_subset(pairs, SubsetSettings(part=part), seed=3)
        assert len(chosen) == 10
        margins[part] = (set(chosen["pair_id"]), np.array(chosen["margin/rating"]))
    ids = [margins[part][0] for part in ("easy", "middle", "hard")]
    assert len(set.union(*ids)) == 30, "the thirds share no pair"
    assert margins["easy"][1].min() >= margins["middle"][1].max()
    assert margins["middle"][1].min() >= margins["hard"][1].max()
    assert margins["random"][0] == set(choose_subset(pairs, SubsetSettings(part="random"), seed=3)["pair_id"])
