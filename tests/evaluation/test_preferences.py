"""Preference metrics on held-out pairs and counted demands, against transformers' plain forward, scipy and by hand."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo import load_pairs
from mixdpo.cli.main import main
from mixdpo.common.statistics import mean_of_means
from mixdpo.data.data_settings import TokenSettings
from mixdpo.data.tokenize import tokenize_pairs
from mixdpo.evaluation.constraints import constraints_from_text, constraints_met
from mixdpo.evaluation.held_out_prompts import DATA
from mixdpo.evaluation.statistics.preference_metrics import PairValues, summarise_pairs
from mixdpo.generation.answer_files import read_answers
from synthetic import chat_rows
from tiny import plain_logprob, tiny_llama


@pytest.fixture
def models(tmp_path, tokenizer) -> list[str]:
    for seed in (0, 1):
        tiny_llama(seed, vocab_size=len(tokenizer), positions=1024).save_pretrained(tmp_path / f"model{seed}")
        tokenizer.save_pretrained(tmp_path / f"model{seed}")
    return [str(tmp_path / f"model{seed}") for seed in (0, 1)]


def test_mean_of_means_is_welchs() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(2, 1, 12), rng.normal(0, 3, 30)
    found, error = mean_of_means([first, second], [1, 1])
    # Half of the difference of `first` and minus `second`, whose interval scipy gives by Welch's method.
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    assert (2 * found.low, 2 * found.high) == pytest.approx((expected.low, expected.high))
    assert 2 * error == pytest.approx(np.hypot(stats.sem(first), stats.sem(second)))
    alone, error = mean_of_means([first], [3])
    own = stats.ttest_1samp(first, 0).confidence_interval(0.95)
    assert (alone.low, alone.high, error) == pytest.approx((own.low, own.high, stats.sem(first)))


def test_metrics_by_hand() -> None:
    values = PairValues(
        policy=np.array([[-4.0, -9.0], [-6.0, -3.0]]),
        tokens=np.array([[2, 9], [6, 1]]),
        reference=np.array([[-5.0, -8.0], [-6.0, -2.0]]),
        beta=0.5,
    )
    found = {name: column.tolist() for name, column in values.columns().items()}
    assert found == {
        "accuracy": [True, True],
        "reward_margin": [1.0, 0.5],
        "displacement_chosen": [1.0, 0.0],
        "displacement_rejected": [-1.0, -1.0],
        "chosen_fell": [False, False],
        "logp_accuracy": [True, False],
        "per_token_accuracy": [False, True],
    }


def test_pairs_of_one_prompt_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(200)
    right = values > 0.4
    alone = summarise_pairs({"a": right, "m": values}, np.arange(200), {})
    share = stats.binomtest(int(right.sum()), 200).proportion_ci(method="wilson")
    assert alone["a_interval"] == pytest.approx([100 * share.low, 100 * share.high])
    tripled = summarise_pairs(
        {"a": np.repeat(right, 3), "m": np.repeat(values, 3)}, np.repeat(np.arange(200), 3), {"easy": np.arange(30)}
    )
    assert tripled["m_interval"] == pytest.approx(alone["m_interval"])
    assert tripled["a_interval"] == pytest.approx(alone["a_interval"], abs=2)
    assert (tripled["n"], tripled["n_prompts"], tripled["buckets"]["easy"]["n_prompts"]) == (600, 200, 10)


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
    tokens, _ = tokenize_pairs(pairs, tokenizer, TokenSettings())
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
    content = {"model": {"name_or_path": models[0]}, "eval_data": held_out, "train": {"beta": 0.3, "max_length": 60}}
    recipe.write_text(yaml.safe_dump(content))
    adapter, out = str(tmp_path / "adapter"), tmp_path / "out.json"
    common = ["eval", "preferences", "--reference", models[0], "--output", str(out), "--train.bf16", "false"]
    assert main([*common, "--config", str(recipe), "--adapter", adapter]) == 0
    by_recipe = json.loads(out.read_text())
    settings = {name: by_recipe["settings"][name] for name in ("beta", "max_length", "adapter")}
    assert settings == {"beta": 0.3, "max_length": 60, "adapter": adapter}
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


def test_demands_of_files_and_models(tmp_path, models, capsys, monkeypatch) -> None:
    from mixdpo.evaluation import held_out_prompts
    from mixdpo.generation.generation_settings import SamplingSettings

    monkeypatch.setattr(held_out_prompts, "GENERATION", SamplingSettings(max_new_tokens=4, batch_size=8))
    held_out = pq.read_table(str(DATA / "test.parquet")).to_pylist()[:30]
    texts = {"good": "WELL! Is this 1 good? (yes) **bold**", "empty": ""}
    for name, text in texts.items():
        rows = [{"prompt": row["prompt"], "answer": text} for row in held_out[::-1]]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [str(tmp_path / "good.jsonl"), f"none={tmp_path / 'empty.jsonl'}", models[0]]
    out = tmp_path / "out.json"
    assert main(["eval", "demands", *sources, "--limit", "30", "--output", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record["models"]) == ["good", "none", "model0"]
    met = [constraints_met(texts["good"], constraints_from_text(row["demands"])) for row in held_out]
    good = record["models"]["good"]
    assert good["demands_met"] == pytest.approx(np.mean(met))
    assert record["models"]["none"]["demands_met"] == 0
    assert record["models"]["none"]["flags"] == ["empty: 100% of answers"]
    gain = record["differences"][0]
    low, high = good["demands_met_interval"]
    assert (gain["first"], gain["second"]) == ("good", "none")
    items = pq.read_table(tmp_path / record["items"]).to_pylist()
    assert [row["score"] for row in items[:30]] == met
    by_task: dict[str, list[float]] = {}
    for row in items[:30]:
        assert row["prompt"].startswith(row["group"])
        by_task.setdefault(row["group"], []).append(row["score"])
    assert len(by_task) == 26, "some come more than once"
    means = [np.mean(values) for values in by_task.values()]
    assert gain["gain"]["estimate"] == pytest.approx(-np.mean(means))
    residuals = [sum(values) - len(values) * np.mean(met) for values in by_task.values()]
    error = np.sqrt(np.sum(np.square(residuals))) / len(met)  # of a mean over clusters, linearised
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert gain["worse"] == sum(mean > 0 for mean in means)
    assert main(["compare", str(out), "--output", str(tmp_path / "compared")]) == 0
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())["benchmarks"][0]
    gains = {frozenset((one["first"], one["second"])): one["gain"] for one in compared["differences"]["demands_met"]}
    assert abs(gains[frozenset(("good", "none"))]["estimate"]) == pytest.approx(np.mean(means)), "by task there too"
    assert "adjusted p" in capsys.readouterr().out

    assert main(["eval", "demands", sources[0], "--output", str(out)]) == 2
    assert "48 of 78 held-out prompts have no answer" in capsys.readouterr().err
    assert main(["eval", "demands", sources[0], sources[0], "--limit", "10", "--output", str(out)]) == 2
    assert "NAME=SOURCE" in capsys.readouterr().err


def test_answers_of_other_tools(tmp_path, refused) -> None:
    def written(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    alpaca = read_answers(written("alpaca.jsonl", [{"instruction": "Say x.", "output": "x", "generator": "m"}]))
    assert alpaca.by_prompt() == {"Say x.": "x"}
    assert alpaca.by_id() == {"0": "x"}
    mt_bench = read_answers(written("mt.jsonl", [{"question_id": 81, "choices": [{"index": 0, "turns": ["a", "b"]}]}]))
    assert mt_bench.by_id() == {"81": "a\n\nb"}
    arena = [{"role": "user", "content": "q"}, {"role": "assistant", "content": {"answer": "a"}}]
    assert read_answers(written("arena.jsonl", [{"uid": "f0", "messages": arena}])).by_id() == {"f0": "a"}
    twice = read_answers(written("twice.jsonl", [{"prompt": "p", "answer": "a"}, {"prompt": "p", "answer": "b"}]))
    refused(twice.by_prompt, "twice.jsonl", "row 2", "second, different")
    refused(lambda: read_answers(written("none.jsonl", [{"prompt": "p", "answer": 3}])), "row 1", "'answer'")
