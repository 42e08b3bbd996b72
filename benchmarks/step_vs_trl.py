"""Seconds per pair of a whole training run, reference pass included, against TRL in the same process, in turn.

    python benchmarks/step_vs_trl.py PAIRS.parquet [--pairs 16] [--repeats 5] [--output benchmarks/results]

SmolLM2-135M-Instruct, float32 weights with bfloat16 autocast, 4 pairs a step, model loading and tokenising left out.
PAIRS has prompt, chosen, rejected as message lists and scores.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from mixdpo import MixDPOConfig, MixDPOTrainer, load_pairs, make_plan, score
from mixdpo.demo.model import smollm2_folder
from mixdpo.io import write_json

SHARED: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 1e-6,
    "logging_steps": 1000,
    "save_strategy": "no",
    "bf16": True,
    "use_cpu": not torch.cuda.is_available(),
    "disable_tqdm": True,
    "report_to": "none",
    "beta": 0.1,
    "max_length": 512,
    "precompute_ref_log_probs": True,
}


def trl_run(model: Any, tokenizer: Any, pairs: Dataset) -> float:
    """Seconds of TRL's DPO: its trainer computes the reference when it is made, so its making is timed."""
    with tempfile.TemporaryDirectory() as output:
        args = trl.DPOConfig(output_dir=output, activation_checkpointing=False, **SHARED)
        # A data set of a new fingerprint: the cache of reference values must not answer.
        fresh = Dataset.from_list(pairs.select_columns(["prompt", "chosen", "rejected"]).to_list())
        begin = time.perf_counter()
        trainer = trl.DPOTrainer(model, args=args, train_dataset=fresh, processing_class=tokenizer)
        trainer.train()
        return time.perf_counter() - begin


def mixdpo_run(name: str, **changes: Any) -> Callable[..., float]:
    """Seconds of this package with a plan."""

    def run(model: Any, tokenizer: Any, pairs: Dataset) -> float:
        with tempfile.TemporaryDirectory() as output:
            begin = time.perf_counter()
            trainer: Trainer = MixDPOTrainer(
                model,
                args=MixDPOConfig(output_dir=output, reference_cache=False, **SHARED),
                train_dataset=pairs,
                plan=make_plan(pairs, name, **changes),
                processing_class=tokenizer,
            )
            trainer.train()
            return time.perf_counter() - begin

    return run


ARMS: dict[str, Callable[..., float]] = {
    f"TRL {trl.__version__} DPO": trl_run,
    "mixdpo DPO": mixdpo_run("dpo"),
    "mixdpo, hardest 10 % to SFT": mixdpo_run("mixdpo"),
    "mixdpo, hardest 50 % to SFT": mixdpo_run("mixdpo", threshold={"hardest": 0.5}),
}


def main() -> None:
    """Run every arm in turn, several times, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()

    folder = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = score(load_pairs(options.data, max_pairs=options.pairs))
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for repeat in range(options.repeats):
        for name, run in ARMS.items():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            seconds[name].append(run(model, tokenizer, pairs) / len(pairs))
            print(f"{repeat + 1}/{options.repeats} {name}: {seconds[name][-1]:.2f} s/pair", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:32s} {median:6.2f} s/pair  {first / median:5.2f} x TRL")
    record = {
        "date": date.today().isoformat(),
        "hardware": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "trl": trl.__version__},
        "pairs": len(pairs),
        "settings": SHARED,
        "seconds_per_pair": seconds,
        "median": medians,
    }
    write_json(options.output / "step_vs_trl.json", record)
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
