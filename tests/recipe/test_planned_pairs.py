"""Pairs of a recipe: what is said where they have no scores, and of the pairs to measure on."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from mixdpo.cli.main import main
from mixdpo.common.errors import InputError
from mixdpo.recipe.planned_pairs import load_and_score, load_eval_pairs, plan_from_recipe
from mixdpo.recipe.recipe_file import load_recipe
from synthetic import chat_rows
from tiny import saved, tiny_llama


def unscored(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if "score" not in key} for row in rows]


@pytest.fixture
def folder(tokenizer, tmp_path, jsonl, monkeypatch) -> Path:
    """The working folder, with unscored pairs and a model."""
    monkeypatch.chdir(tmp_path)
    jsonl(unscored(chat_rows(8)), "my pairs.jsonl")
    saved(tiny_llama(vocab_size=len(tokenizer)), tokenizer, tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        "data: {path: 'my pairs.jsonl', max_pairs: 6}\nmodel: {name_or_path: model}\ntrain: {use_cpu: true}\n"
    )
    return tmp_path


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize("given", [["my pairs.jsonl", "--model", "model"], ["--config", "recipe.yaml"]])
def test_the_ways_on_without_scores_can_be_gone(command, given, folder, capsys) -> None:
    extra = ["--train.use_cpu", "true"] if command == "train" else []
    assert main([command, *given, *extra]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mixdpo: ")]
    assert line.startswith("mixdpo: my pairs.jsonl: the plan needs scores, and the data has none; ")
    assert "--plan.name dpo" in line
    assert main([command, *given, *extra, "--plan.name", "dpo", "-o", "first"]) == 0
    (scoring,) = re.findall(r"`mixdpo (score .*?)`", line)
    assert main(shlex.split(scoring)) == 0
    assert "scored.parquet with --plan.metric nll_gap" in line
    words = [command, "scored.parquet", *given[-2:], *extra, "--plan.metric", "nll_gap", "-o", "second"]
    assert main(words) == 0


def test_another_metric_that_is_not_there_names_its_command(folder, refused) -> None:
    assert main(["plan", "my pairs.jsonl", "--plan.metric", "nll_gap"]) == 2
    refused(
        lambda: make_plan(load_pairs("my pairs.jsonl"), metric="nll_gap"), "mixdpo.score(dataset, metric='nll_gap')"
    )


def test_metrics_of_models_that_no_recipe_names_say_so_in_their_command(folder, capsys) -> None:
    words = ["plan", "my pairs.jsonl", "--model", "model", "--plan.name", "smallest_gap"]
    assert main(words) == 2
    (scoring,) = re.findall(r"`mixdpo (score .*?)`", capsys.readouterr().err)
    assert main(shlex.split(scoring.replace("ALIGNED_MODEL", "model"))) == 0
    assert main(["plan", "scored.parquet", *words[2:]]) == 0


def test_what_a_metric_is_made_of_is_computed_too(tmp_path, jsonl, capsys) -> None:
    scored = [{**row, "margin/implicit_reward": index - 3.5} for index, row in enumerate(chat_rows(8))]
    recipe = load_recipe(None, {"data": {"path": jsonl(scored)}, "plan": {"name": "fused_margin"}})
    pairs, _ = load_and_score(recipe, recipe.data, recipe.plan)
    by_hand = score(score(load_pairs(recipe.data.path), "rating"), "fused")
    assert pairs["margin/fused"][:] == by_hand["margin/fused"][:]
    bare = load_recipe(None, {"data": {"path": jsonl(chat_rows(8), "bare.jsonl")}, "plan": {"name": "fused_margin"}})
    with pytest.raises(InputError, match=r"bare\.jsonl: .*margin/implicit_reward.*--score.implicit_reward.model"):
        load_and_score(bare, bare.data, bare.plan)


@pytest.mark.parametrize("plan", [{"weight": "own"}, {"label_probability": "agreement"}])
def test_what_is_wrong_with_the_data_of_a_plan_names_its_file(plan, jsonl) -> None:
    path = jsonl([{**row, "weight/own": 0} for row in chat_rows(8)])
    recipe = load_recipe(None, {"data": {"path": path}, "plan": {"name": "dpo", **plan}})
    with pytest.raises(InputError, match=rf"{Path(path).name}: (every weight|there is nothing|label_probability)"):
        plan_from_recipe(recipe, load_and_score(recipe, recipe.data, recipe.plan)[0])


def test_the_ways_on_in_python(folder, tokenizer) -> None:
    pairs = load_pairs("my pairs.jsonl")
    for ask in (
        lambda: make_plan(pairs),
        lambda: make_plan(pairs, "selective_dpo"),
        lambda: MixDPOTrainer(
            tiny_llama(vocab_size=len(tokenizer)), args=MixDPOConfig(output_dir="run", use_cpu=True),
            train_dataset=pairs, processing_class=tokenizer, plan="mixdpo",
        ),
    ):  # fmt: skip
        with pytest.raises(InputError, match="nor scores to make it of; ") as error:
            ask()
        assert 'make_plan(dataset, "dpo")' in str(error.value)
        assert 'mixdpo.score(dataset, "nll_gap", model=MODEL)' in str(error.value)
    make_plan(pairs, "dpo")
    make_plan(score(pairs, "nll_gap", model="model"), metric="nll_gap")


def test_scores_that_only_want_scoring_are_not_called_missing(jsonl) -> None:
    with pytest.raises(InputError, match="metric='rating'") as error:
        make_plan(load_pairs(jsonl(chat_rows(4))))
    assert "nor scores" not in str(error.value)


def test_what_became_of_the_rows_of_eval_data_is_shown(jsonl, caplog) -> None:
    rows = chat_rows(6)
    rows[2]["chosen"] = rows[2]["rejected"]
    recipe = load_recipe(None, {"eval_data": {"path": jsonl(rows, "held_out.jsonl")}})
    with caplog.at_level(logging.INFO):
        assert len(load_eval_pairs(recipe, "rating", buckets=True)) == 5
    (dropped,) = [record for record in caplog.records if "dropped 1 " in record.getMessage()]
    assert dropped.levelno == logging.WARNING
    assert "held_out.jsonl: read 6 rows, kept 5 pairs" in caplog.text
