"""How difficulty metrics rank real pairs: rank correlations, and how often their sign finds the better answer.

    python benchmarks/metrics.py PAIRS.parquet --training OTHERS.parquet --models FOLDER --embedding EMBEDDING

PAIRS has prompt, chosen, rejected as messages, and scores of a judge, which are the labels. The model is
SmolLM2-135M-Instruct. On pairs of OTHERS an aligned model (DPO) and a reward model (TRL's RewardTrainer) are trained
for the metrics that need one, and kept in FOLDER, so that what was killed goes on. EMBEDDING is a sentence encoder.
Writes results/metrics.json and prints the tables of docs/metrics.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trl
from arms import RESULTS, conditions
from datasets import Dataset
from scipy.stats import binomtest, norm, spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from mixdpo.common.files import write_json
from mixdpo.data.arrays import float_column
from mixdpo.models.loading import load_policy
from mixdpo.models.model_settings import ModelSettings
from mixdpo.plan.threshold import judges_labels
from mixdpo.study.demo.smollm2 import smollm2_folder

TRAINING = {
    "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "warmup_steps": 0.1,
    "max_length": 1024, "bf16": True, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no",
    "logging_steps": 5, "report_to": "none", "seed": 0,
}  # fmt: skip
ALIGNED = {"learning_rate": 2e-5, "beta": 0.1}
REWARD = {"learning_rate": 5e-5}
# Steps of 8 pairs and a higher rate, for the method's own 64 pairs and 3e-5 would leave a model of this size as it is.
VALIDATION = {
    "preset": "cheap",
    "pairs_per_run": 48,
    "step_size": 8,
    "learning_rate": 5e-4,
    "beta": 0.1,
    "batch_size": 4,
}


def kept(folder: Path, train: Callable[[Path], None]) -> str:
    """Return where a model is, made by `train` unless that was done."""
    if not folder.exists():
        unfinished = folder.with_suffix(".part")
        train(unfinished)
        unfinished.rename(folder)
    return str(folder)


def train_aligned(pairs: Dataset, start: str, folder: Path) -> None:
    """Train the starting model by DPO into `folder`."""
    trainer = MixDPOTrainer(
        load_policy(ModelSettings(name_or_path=start, dtype="float32")),
        args=MixDPOConfig(output_dir=str(folder), **TRAINING, **ALIGNED),
        train_dataset=pairs,
        plan=make_plan(pairs, "dpo"),
    )
    trainer.train()
    trainer.save_model(str(folder))


def train_reward_model(pairs: Dataset, start: str, folder: Path) -> None:
    """Train a score head and the starting model under it by TRL's reward trainer into `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = trl.RewardTrainer(
        model,
        args=trl.RewardConfig(output_dir=str(folder), activation_checkpointing=False, **TRAINING, **REWARD),
        train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(folder))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Return Spearman's correlation and its 95 % interval (Bonett and Wright 2000, doi:10.1007/BF02294183)."""
    value = float(spearmanr(first, second)[0])
    if first is second:
        return [1.0, 1.0, 1.0]
    half = norm.ppf(0.975) * np.sqrt((1 + value**2 / 2) / (len(first) - 3))
    return [value, *np.tanh(np.arctanh(value) + np.array([-half, half])).tolist()]


def main() -> None:
    """Score, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--training", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--embedding", required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--training-pairs", type=int, default=128)
    options = parser.parse_args()
    model = str(smollm2_folder())
    likelihood = ["nll_gap", "reference_logp", "ches", "ches_length_normalised"]
    parameters = {name: {"model": model} for name in likelihood} | {"length_gap": {"signed": True}}
    parameters["embedding"] = {"model": options.embedding}
    metrics = ["rating", "length_gap", *likelihood, "embedding", "combine"]
    pairs = score(load_pairs(options.data, max_pairs=options.pairs), metrics, **parameters)
    others = score(load_pairs(options.training, max_pairs=options.training_pairs))
    aligned = kept(options.models / "aligned", partial(train_aligned, others, model))
    rewarding = kept(options.models / "reward", partial(train_reward_model, others, model))
    trained = {
        "implicit_reward": {"model": aligned, "ref_model": model},
        "reward_model": {"model": rewarding, "bf16": True},
        "validation_loss": {"model": model, **VALIDATION},
    }
    pairs = score(pairs, list(trained), **trained)
    metrics += trained
    margins = {name: float_column(pairs, f"margin/{name}") for name in metrics}

    rating = margins["rating"]
    edges = np.quantile(rating, [0, 1 / 3, 2 / 3, 1])
    bins = {"all": np.ones(len(rating), dtype=bool)}
    for name, low, high in zip(("hard third", "middle third", "easy third"), edges, edges[1:], strict=False):
        bins[name] = (rating >= low) & ((rating < high) | (high == edges[-1]))
    record = {
        **conditions(),
        "pairs": len(pairs),
        "training": {
            "pairs": len(others),
            **TRAINING,
            "dpo": ALIGNED,
            "reward_model": REWARD,
            "validation": VALIDATION,
        },
        "rank_correlation": {a: {b: rank_correlation(margins[a], margins[b]) for b in metrics} for a in metrics},
        "accuracy": {},
    }
    for name in metrics:
        # The sign of others says nothing about which answer is the better one.
        if name == "rating" or not judges_labels(name, margins[name]):
            continue
        record["accuracy"][name] = {}
        for where, mask in bins.items():
            right, count = int((margins[name][mask] > 0).sum()), int(mask.sum())
            interval = binomtest(right, count).proportion_ci(method="wilson")
            record["accuracy"][name][where] = [right / count, interval.low, interval.high, count]
    write_json(RESULTS / "metrics.json", record)

    print("| | " + " | ".join(metrics) + " |\n|" + " --- |" * (len(metrics) + 1))
    for a in metrics:
        print(f"| {a} | " + " | ".join(f"{record['rank_correlation'][a][b][0]:.2f}" for b in metrics) + " |")
    print("\n| | " + " | ".join(bins) + " |\n|" + " --- |" * (len(bins) + 1))
    for name, values in record["accuracy"].items():
        cells = [f"{100 * v[0]:.1f} % ({100 * v[1]:.1f} to {100 * v[2]:.1f})" for v in values.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
