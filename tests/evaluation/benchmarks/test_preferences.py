"""Preference metrics on held-out pairs against transformers' plain forward."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokens_of
from synthetic import chat_rows
from tiny import plain_logprob, tiny_llama


@pytest.fixture
def models(tmp_path, tokenizer) -> list[str]:
    for seed in (0, 1):
        tiny_llama(seed, vocab_size=len(tokenizer), positions=1024).save_pretrained(tmp_path / f"model{seed}")
        tokenizer.save_pretrained(tmp_path / f"model{seed}")
    return [str(tmp_path / f"model{seed}") for seed in (0, 1)]


def test_preferences_equal_the_plain_forward(tmp_path, tokenizer, models, capsys) -> None:
    rows = chat_rows(12)
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    data = str(tmp_path / "pairs.parquet")
    out = tmp_path / "out.json"
    arguments = ["eval", "preferences", data, "--model", models[1], "--output", str(out)]
    assert main([*arguments, "--reference", models[0], "--beta", "0.2", "--train.bf16", "false"]) == 0
    record = json.loads(out.read_text())
    found = pq.read_table(tmp_path / record["pairs"])

    pairs = load_pairs(data)
    tokens, _ = tokens_of(pairs, tokenizer, TokenSettings())
    policy, reference = tiny_llama(1, len(tokenizer), positions=1024), tiny_llama(0, len(tokenizer), positions=1024)
    expected = {"chosen": [], "rejected": [], "ref_chosen": [], "ref_rejected": []}
    with torch.no_grad():
        for row in tokens:
            for side in ("chosen", "rejected"):
                ids = row["prompt_ids"], row[f"{side}_ids"]
                expected[side].append(float(plain_logprob(policy, *ids)))
                expected[f"ref_{side}"].append(float(plain_logprob(reference, *ids)))
    for name, values in expected.items():
        assert found[name].to_pylist() == pytest.approx(values, abs=1e-3)
    change = {side: np.array(expected[side]) - np.array(expected[f"ref_{side}"]) for side in ("chosen", "rejected")}
    summary = record["models"]["model1"]
    assert summary["reward_margin"] == pytest.approx(0.2 * (change["chosen"] - change["rejected"]).mean(), abs=1e-3)
    assert summary["accuracy"] == pytest.approx(100 * (change["chosen"] > change["rejected"]).mean())
    assert summary["displacement_rejected"] == pytest.approx(change["rejected"].mean(), abs=1e-3)
    assert summary["accuracy_interval"][0] < summary["accuracy"] < summary["accuracy_interval"][1]
    margins = np.array([row["score_chosen"] - row["score_rejected"] for row in rows])
    assert sum(part["n"] for part in summary["buckets"].values()) == 12
    bucket = np.array(found["bucket"].to_pylist())
    assert margins[bucket == "hard"].max() <= margins[bucket == "easy"].min()
    assert "accuracy" in capsys.readouterr().out

    assert main(arguments) == 0
    assert "accuracy" not in json.loads(out.read_text())["models"]["model1"], "no reference, no implicit reward"
    assert main([*arguments, "--metric", "nll_gap"]) == 2
    assert "margin/nll_gap" in capsys.readouterr().err


def test_means_per_token_are_of_the_trained_ones(tmp_path, tokenizer, models, half_trained) -> None:
    Dataset.from_list(chat_rows(6)).to_parquet(tmp_path / "pairs.parquet")
    data, out = str(tmp_path / "pairs.parquet"), tmp_path / "out.json"
    assert main(["eval", "preferences", data, "--model", models[0], "--output", str(out)]) == 0
    found = pq.read_table(tmp_path / json.loads(out.read_text())["pairs"])
    tokens = half_trained(tokens_of(load_pairs(data), tokenizer, TokenSettings())[0])
    for side in ("chosen", "rejected"):
        assert found[f"{side}_tokens"].to_pylist() == [sum(mask) for mask in tokens[f"{side}_mask"]]
        assert [len(ids) for ids in tokens[f"{side}_ids"]] != found[f"{side}_tokens"].to_pylist()


def test_preferences_reads_data_and_model_as_training_does(tmp_path, models, capsys) -> None:
    rows = chat_rows(8)
    renamed = [{**{k: v for k, v in row.items() if k != "chosen"}, "good": row["chosen"]} for row in rows]
    for name, content in (("pairs", rows), ("renamed", renamed)):
        Dataset.from_list(content).to_parquet(tmp_path / f"{name}.parquet")
    torch.manual_seed(0)
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(models[0]), lora)
    adapted.save_pretrained(tmp_path / "adapter")
    recipe = tmp_path / "recipe.yaml"
    held_out = {"path": str(tmp_path / "renamed.parquet"), "columns": {"chosen": "good"}}
    train = {
        "beta": 0.3,
        "max_length": 60,
        "assistant_only_loss": False,
        "loss_turns": "last",
        "mask_empty_thinking": False,
    }
    told = {"chat_template_kwargs": {"mood": "calm"}, "template_date": "2026-01-31"}
    content = {"model": {"name_or_path": models[0], **told}, "eval_data": held_out, "train": train}
    recipe.write_text(yaml.safe_dump(content))
    adapter, out = str(tmp_path / "adapter"), tmp_path / "out.json"
    common = ["eval", "preferences", "--reference", models[0], "--output", str(out), "--train.bf16", "false"]
    assert main([*common, "--config", str(recipe), "--adapter", adapter]) == 0
    by_recipe = json.loads(out.read_text())
    expected = {**train, **told, "adapter": adapter}
    assert {name: by_recipe["settings"][name] for name in expected} == expected
    options = [str(tmp_path / "pairs.parquet"), "--model", models[0], "--model.adapter", adapter]
    assert main([*common, *options, "--beta", "0.3", "--train.max_length", "60"]) == 0
    assert json.loads(out.read_text())["models"] == by_recipe["models"]
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(models[0]).save_pretrained(tmp_path / "merged")
    options = [str(tmp_path / "pairs.parquet"), "--model", str(tmp_path / "merged"), "--beta", "0.3"]
    assert main([*common, *options]) == 0
    merged = json.loads(out.read_text())["models"]["merged"]
    assert merged["reward_margin"] == pytest.approx(by_recipe["models"]["adapter"]["reward_margin"], abs=1e-3)
    assert merged["reward_margin"] != 0
    assert main([*common, str(tmp_path / "renamed.parquet"), "--model", models[0]]) == 2
    assert "--data.columns '{chosen: " in capsys.readouterr().err
