"""The demo's shipped tables: true ratings, separate splits, and the commands that make them of the stored answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import make_demo_data
import mixdpo.evaluation
from mixdpo.cli.main import main
from mixdpo.common.errors import RunError
from mixdpo.common.table_files import read_table, write_json_lines
from mixdpo.evaluation.constraints import KINDS, constraints_from_text, constraints_met
from mixdpo.judges.program import run_program
from tiny import byte_level_tokenizer, saved, tiny_llama

FOLDER = Path(mixdpo.evaluation.__file__).parent / "data"
SPLITS = ("train", "validation", "test")
PAIR_SPLITS = ("train", "validation")


def rows(split: str) -> list[dict[str, Any]]:
    return pq.read_table(FOLDER / f"{split}.parquet").to_pylist()


def prompt_texts(split: str) -> list[str]:
    return [row["prompt"][0]["content"] for row in rows(split)]


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


def test_splits_share_no_prompt_and_no_task() -> None:
    tasks = make_demo_data.TASKS.read_text(encoding="utf-8").splitlines()
    assert len(tasks) == len(set(tasks)) == sum(make_demo_data.TASKS_PER_SPLIT.values())
    used = {
        split: {next(task for task in tasks if text.startswith(task)) for text in prompt_texts(split)}
        for split in SPLITS
    }
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not used[first] & used[second]
        assert not set(prompt_texts(first)) & set(prompt_texts(second))


def test_script_makes_these_prompts() -> None:
    prompts = make_demo_data.make_prompts(
        make_demo_data.TASKS.read_text(encoding="utf-8").splitlines(), make_demo_data.SEED
    )
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


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["make_demo_data.py", *map(str, arguments)])
    make_demo_data.main()


def test_the_commands_make_the_shipped_pairs_of_the_stored_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(monkeypatch, "--published", "--output", tmp_path)
    columns = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")

    def pairs_of(table: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps([row[name] for name in columns]) for row in table)

    made = pq.read_table(tmp_path / "published.parquet").to_pylist()
    assert pairs_of(made) == pairs_of([*rows("train"), *rows("validation")])
    assert len(made) == 600
    assert {row["model_chosen"] for row in made} == {"SmolLM2-135M-Instruct"}
    assert pq.read_table(tmp_path / "test.parquet").equals(pq.read_table(FOLDER / "test.parquet"))


def test_new_answers_become_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model would be asked is only counted; the answers are these."""
    texts = ("Well, a river!", "rain (cold) at 5?", "A **bold** story, because of water.", "No. Yes. Often.")
    tokenizer = byte_level_tokenizer()
    model = saved(tiny_llama(vocab_size=len(tokenizer), positions=600), tokenizer, tmp_path / "model")

    def command(words: list[str]) -> int:
        if words[0] != "generate":
            return main(words)
        answers = [
            {**row, "output": text, "generator": "m", "finished": True, "sample": sample}
            for row in read_table(words[1]).rows()
            for sample, text in enumerate(texts)
        ]
        write_json_lines(words[words.index("-o") + 1], answers)
        return main([*words[:-1], str(tmp_path / "none.jsonl"), "--dry-run"])

    monkeypatch.setattr("mixdpo.study.demo.smollm2.smollm2_folder", lambda **_: model)
    monkeypatch.setattr(make_demo_data, "mixdpo", command)
    run_script(monkeypatch, "--output", tmp_path / "made")
    for split, most in make_demo_data.PAIRS_PER_PROMPT.items():
        prompts = make_demo_data.PROMPTS_PER_TASK[split] * make_demo_data.TASKS_PER_SPLIT[split]
        pairs = Counter(pq.read_table(tmp_path / "made" / f"{split}.parquet")["prompt_id"].to_pylist())
        assert (len(pairs), set(pairs.values())) == (prompts, {most})


def test_answers_that_make_other_pairs_end_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = read_table(make_demo_data.ANSWERS).rows()
    answers[0]["output"] += " Changed."
    write_json_lines(tmp_path / "answers.jsonl", answers)
    monkeypatch.setattr(make_demo_data, "ANSWERS", tmp_path / "answers.jsonl")
    with pytest.raises(SystemExit, match="are missing"):
        run_script(monkeypatch, "--published", "--output", tmp_path)


def test_stored_answers_are_to_prompts_of_the_script() -> None:
    prompts = make_demo_data.make_prompts(
        make_demo_data.TASKS.read_text(encoding="utf-8").splitlines(), make_demo_data.SEED
    )
    ids = {one.text: f"{split}-{number}" for split in PAIR_SPLITS for number, one in enumerate(prompts[split])}
    for row in read_table(make_demo_data.ANSWERS).rows():
        assert row["prompt_id"] == ids[row["instruction"]]
        assert row["finished"]


def test_the_judge_says_what_answers_lack() -> None:
    case = {"prompt": [], "answer": "A river."}
    with pytest.raises(RunError, match="no column demands"):
        run_program([sys.executable, str(make_demo_data.ROOT / "scripts" / "demo_judge.py")], [case])
