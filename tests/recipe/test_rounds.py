"""Rounds end to end on a tiny model with a program as judge; killed ones go on to the files of those that were not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from mixdpo.cli.main import main
from mixdpo.common.stages import Stage, run_stage
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of
from mixdpo.difficulty.scored_pairs import load_pairs
from mixdpo.pairs import from_prompts
from mixdpo.recipe import round_stages, rounds
from mixdpo.recipe.recipe_file import load_recipe
from mixdpo.recipe.rounds import run_rounds
from mixdpo.training.trainer import MixDPOTrainer
from tiny import plain_logprob, saved, tiny_llama

WORDS = ("tea", "cats", "dogs", "water", "the fox", "a lazy dog", "one answer", "leaves")
JUDGE = "import json, sys\nfor line in sys.stdin: print(json.loads(line)['answer'].lower().count('e'))"
FILES = ("answers.jsonl", "rated.jsonl", "scored.parquet", "held-out.jsonl", "held-out.compared.jsonl")
ADAPTERS = {"r": 2, "target_modules": "all-linear"}


@pytest.fixture
def recipe(tmp_path: Path, tokenizer) -> Callable[..., Path]:
    """Write a recipe of a tiny model whose answers are better the more of a letter they have."""
    prompts, held_out, judge = (tmp_path / name for name in ("prompts.jsonl", "held-out.jsonl", "judge.py"))
    prompts.write_text("".join(json.dumps({"prompt": f"Tell me about {word}."}) + "\n" for word in WORDS))
    held_out.write_text("".join(json.dumps({"id": f"h{k}", "prompt": f"How do {k} foxes wait?"}) + "\n" for k in "23"))
    judge.write_text(JUDGE)

    model = saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "tiny")

    def write(**changes: Any) -> Path:
        content = {
            "model": {"name_or_path": model, "dtype": "float32"},
            "pairs": {
                "prompts": str(prompts),
                "held_out": str(held_out),
                "generation": {"samples": 3, "max_new_tokens": 12},
                "judge": {"judge": f"{sys.executable} {judge}", "kind": "program"},
                "selection": {"select": ["best-worst"], "keep_cut": True},
            },
            "plan": {"name": "mixdpo", "threshold": {"hardest": 0.25}},
            "train": {
                "learning_rate": 1e-3, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 1,
                "bf16": False, "use_cpu": True, "disable_tqdm": True,
            },
        }  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return write


def start(path: Path, folder: Path, count: int = 2, **changes: Any) -> list[rounds.RoundResult]:
    return run_rounds(load_recipe(path, changes), count, folder)


def contents(folder: Path) -> dict[str, bytes]:
    """What rounds leave that must not depend on how often they were stopped."""
    names = [*FILES, "run/model/model.safetensors", "run/model/adapter_model.safetensors", "model/model.safetensors"]
    found = {str(path.relative_to(folder)): path for name in names for path in folder.glob(f"round-*/{name}")}
    plans = {str(path): path for path in folder.glob("round-*/plan.parquet")}
    return {name: path.read_bytes() for name, path in {**found, "rounds.json": folder / "rounds.json"}.items()} | {
        Path(name).parent.name: str(pq.read_table(path).to_pylist()).encode() for name, path in plans.items()
    }


def check_reference(model: Path, folder: Path, tokenizer) -> None:
    """The reference of a round is the model; compared with transformers' own forward pass."""
    tokens, _ = tokens_of(load_pairs(folder / "scored.parquet"), tokenizer, TokenSettings())
    reference = pq.read_table(folder / "run" / "reference" / "train.parquet")["ref_chosen"].to_pylist()
    row = next(row for row, value in enumerate(reference) if value is not None)  # the others' loss reads none
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = plain_logprob(policy, tokens[row]["prompt_ids"], tokens[row]["chosen_ids"])
    assert reference[row] == pytest.approx(expected.item(), abs=1e-4)


def test_a_round_trains_the_model_of_the_one_before_it(recipe, tmp_path: Path, tokenizer, refused) -> None:
    folder = tmp_path / "rounds"
    results = start(recipe(), folder)
    assert [one.number for one in results] == [0, 1, 2]
    runs = [json.loads((folder / f"round-{n}" / "run" / "run.json").read_text())["model"]["name"] for n in (1, 2)]
    assert runs == [str(tmp_path / "tiny"), str(folder / "round-1" / "run" / "model")]
    rated = [json.loads(line) for line in (folder / "round-2" / "rated.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rated] == [row["output"].lower().count("e") for row in rated]
    assert {row["generator"] for row in rated} == {"round-1"}
    scored = pq.read_table(folder / "round-2" / "scored.parquet")
    assert scored["margin/rating"].to_pylist() == [
        a - b for a, b in zip(*(scored[f"score_{side}"].to_pylist() for side in ("chosen", "rejected")), strict=True)
    ]
    assert results[2].pairs == len(scored)
    assert sum(results[2].routes.values()) == len(scored)
    check_reference(folder / "round-1" / "run" / "model", folder / "round-2", tokenizer)
    held_out = results[2].held_out
    assert held_out.answers == held_out.compared == 2
    assert held_out.gain.estimate == pytest.approx(held_out.rating - held_out.start_rating)
    stored = json.loads((folder / "rounds.json").read_text())["rounds"]
    assert stored[2]["held_out"]["over_last"]["estimate"] == held_out.over_last.estimate
    assert (folder / "rounds.png").stat().st_size > 10_000

    for changes, key in (
        ({"pairs": {"generation": {"temperature": 0.5}}}, "generation.temperature"),
        ({"pairs": {"selection": {"select": ["all"]}}}, "selection.select"),
        ({"plan": {"threshold": {"hardest": 0.5}}}, "plan.threshold.hardest = 0.25"),
        ({"train": {"beta": 0.3}}, "without train.beta"),
        ({"peft": ADAPTERS}, "peft.r"),
    ):
        refused(lambda changes=changes: start(recipe(), folder, **changes), "round-1", key)
    assert start(recipe(), folder, train={"logging_steps": 1}, pairs={"batch_size": 4}) == results


class Killed(BaseException):
    """Nothing of ours catches it. It is in this process, for threads of polars do not survive a fork."""


def die(*_: object) -> None:
    raise Killed


def within(stage: str, number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Die in a stage of a round, after its record was written."""
    original = run_stage

    def run(folder: Path, what: Stage, make: Callable[[], object], *record: str) -> None:
        is_meant = what.name == stage and folder.name == f"round-{number}"
        original(folder, what, die if is_meant else make, *record)

    def patch_both(patch: pytest.MonkeyPatch) -> None:
        for module in (from_prompts, round_stages):
            patch.setattr(module, "run_stage", run)

    return patch_both


def in_step_2(patch: pytest.MonkeyPatch) -> None:
    original = MixDPOTrainer.end_step
    patch.setattr(MixDPOTrainer, "end_step", lambda self, step: die() if step == 2 else original(self, step))


def test_killed_between_and_within_stages_it_leaves_the_same_files(
    recipe, tmp_path: Path, tokenizer, monkeypatch
) -> None:
    path = recipe(peft=ADAPTERS)
    path.write_text(path.read_text().replace("  prompts:", "  reference: first\n  prompts:"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    monkeypatch.chdir(killed)
    for dies in (within("ratings", 1), within("pairs", 1), in_step_2, within("merging", 1), within("comparison", 1)):
        with monkeypatch.context() as patch:
            dies(patch)
            with pytest.raises(Killed):
                start(path, Path("rounds"))
    assert (killed / "rounds" / "round-1" / "run" / "checkpoint-1").is_dir()
    start(path, Path("rounds"))
    monkeypatch.chdir(whole)
    start(path, Path("rounds"), count=1)
    assert [one.number for one in start(path, Path("rounds"))] == [0, 1, 2], "one more round goes on"
    assert contents(killed / "rounds") == contents(whole / "rounds")
    assert len(contents(whole / "rounds")) == 2 * (len(FILES) + 3) + 1
    one, two = (json.loads((whole / "rounds" / f"round-{n}" / "run" / "run.json").read_text()) for n in (1, 2))
    assert two["model"]["name"] == "rounds/round-1/model"
    assert one["model"]["adapters"] == two["model"]["adapters"] == ["default"], "fresh ones on the merged model"
    check_reference(tmp_path / "tiny", whole / "rounds" / "round-2", tokenizer)


@pytest.mark.slow
def test_a_process_that_is_killed_within_training_goes_on(recipe, tmp_path: Path, monkeypatch) -> None:
    path = recipe()
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "mixdpo", "rounds", str(path), "--rounds", "1", "--output", "rounds"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the order of sums depends on them
    process = subprocess.Popen(command, cwd=tmp_path / "killed", env={**os.environ, **threads})
    checkpoint = tmp_path / "killed" / "rounds" / "round-1" / "run" / "checkpoint-1" / "trainer_state.json"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        monkeypatch.chdir(tmp_path / name)
        start(path, Path("rounds"), count=1)
    assert contents(tmp_path / "killed" / "rounds") == contents(tmp_path / "whole" / "rounds")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"path": "pairs.parquet"}}, ["leave out the section data"]),
        ({"plan": {"path": "plan.parquet"}}, ["plan.path"]),
        ({"model": {"name_or_path": "m", "adapter": "a"}}, ["mixdpo merge"]),
        ({"pairs": {"generation": {"samples": 1}}}, ["pairs.generation.samples is 1"]),
        ({"pairs": {"reference": "lats"}}, ["pairs.reference"]),
        ({"pairs": {"rating": {"modus": "grade"}}}, ["did you mean pairs.rating.mode"]),
        ({"pairs": {"judge": {"judge": "m", "kind": "endpoint"}}}, ["an endpoint needs a URL"]),
    ],
)
def test_what_rounds_do_not_read_is_refused(recipe, tmp_path: Path, refused, changes, words) -> None:
    refused(lambda: start(recipe(), tmp_path / "rounds", **changes), *words)
    assert not (tmp_path / "rounds").exists()


def test_prompts_that_do_not_fit_are_refused_with_their_row(recipe, tmp_path: Path, refused) -> None:
    path, held_out = recipe(), tmp_path / "held-out.jsonl"
    rows = held_out.read_text()
    held_out.write_text(rows + json.dumps({"prompt": "Tell me about tea."}) + "\n")
    refused(lambda: start(path, tmp_path / "rounds"), str(held_out), "row 3", "1 of 3 held-out prompts")
    held_out.write_text(rows + json.dumps({"turns": ["Hi.", "Why?"]}) + "\n")
    refused(lambda: start(path, tmp_path / "rounds"), str(held_out), "row 3", "2 turns")


def test_fewer_rounds_than_there_are_are_refused(recipe, tmp_path: Path, refused) -> None:
    for name in ("round-3", "round-4-copy"):
        (tmp_path / "rounds" / name).mkdir(parents=True)
    refused(lambda: start(recipe(), tmp_path / "rounds"), "round 3 already")


def test_the_command_says_what_is_wrong(recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rounds", str(recipe()), "--rounds", "1", "--output", str(tmp_path / "rounds")]
    assert main([*words, "--pairs.samples", "3"]) == 2
    assert "unknown key pairs.samples" in capsys.readouterr().err
