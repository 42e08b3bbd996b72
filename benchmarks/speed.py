"""Seconds per pair and peak memory of whole training runs, against TRL in the same process and in turn.

    python benchmarks/speed.py [PAIRS.parquet] [--pairs 12] [--repeats 5] [--model smollm2] [--arms ARM ...]

Model loading is left out, the reference pass is included. Time: every arm once, then every arm again, medians.
PAIRS has prompt, chosen, rejected as messages, and scores; without it texts of UltraFeedback's lengths are made up.
Models: smollm2, and for a GPU llama-1b and llama-8b-lora with random weights.

Peak memory: on a CPU of a process of its own, on a GPU what a run takes there. On a GPU, where a run takes seconds,
every arm runs each time on a quarter of the pairs and on all: what starting up takes is in both runs, so that the
difference is the time of further pairs. It begins with a run that does not count, for kernels are compiled then. An
arm that fails there is named in the result and left out. The result is written after every run.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from arms import (
    ARMS,
    DEVICE,
    RESULTS,
    TRL,
    TRL_AT_BEST,
    Setting,
    conditions,
    llama_1b,
    llama_8b_lora,
    needed_flops,
    peak_flops,
    smollm2,
)

from mixdpo.common.files import write_json

Runs = dict[str, list[float]]
"""Seconds of whole runs, by arm."""

# Arms that compute DPO on every pair, for which `needed_flops` holds.
ALL_DPO = (TRL, TRL_AT_BEST, f"{TRL}, live reference", "mixdpo DPO, padded rows", "mixdpo DPO")
SETTINGS = {"smollm2": smollm2, "llama-1b": llama_1b, "llama-8b-lora": llama_8b_lora}
# Those that a short session has the time for, in the order of what they say.
ON_CPU = [name for name in ARMS if name != TRL_AT_BEST]
ON_GPU = ["mixdpo DPO", TRL_AT_BEST, "mixdpo, hardest 10 % to SFT", TRL]


def resident_peak() -> int:
    """Peak of this process's resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_in_own_process(name: str) -> int:
    """Run an arm in a process of its own with the same arguments; return the peak of its resident memory in bytes."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--memory-of={name}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    peak: int = json.loads(result.stdout.splitlines()[-1])
    return peak


def run_on_gpu(name: str, setting: Setting) -> tuple[float, int]:
    """Run an arm; return its seconds, and the peak in bytes of the GPU's memory that it took."""
    gc.collect()  # the model of the run before
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = ARMS[name](setting)
    return seconds, torch.cuda.max_memory_allocated() - before


def further_pairs(setting: Setting, part: Setting, whole: Runs, quarter: Runs) -> dict[str, Any]:
    """Return what the pairs of `setting` that are not in `part` take: seconds a pair, share of the device's peak."""
    pairs = len(setting.pairs) - len(part.pairs)
    needed = (needed_flops(setting) - needed_flops(part)) / pairs
    median = {
        name: (statistics.median(runs) - statistics.median(quarter[name])) / pairs for name, runs in whole.items()
    }
    return {"pairs": pairs, "median": median, "utilisation": utilisation(median, needed)}


def utilisation(median: dict[str, float], needed: float) -> dict[str, float] | None:
    """Return the share of the device's peak that the needed operations (of a pair) take, by arm."""
    peak = peak_flops()
    return {name: needed / seconds / peak for name, seconds in median.items() if name in ALL_DPO} if peak else None


def result(setting: Setting, part: Setting, whole: Runs, quarter: Runs, memory: dict[str, int]) -> dict[str, Any]:
    """Return what is known after some of the runs."""
    pairs = len(setting.pairs)
    median = {name: statistics.median(runs) / pairs for name, runs in whole.items()}
    needed = needed_flops(setting) / pairs
    return {
        **conditions(),
        "model": setting.name,
        "pairs": pairs,
        "settings": setting.shared(""),
        "seconds_per_pair": {name: [seconds / pairs for seconds in runs] for name, runs in whole.items()},
        "median": median,
        "needed_flops_per_pair_of_dpo": needed,
        "utilisation": utilisation(median, needed),
        "peak_bytes": memory,
        **({"further_pairs": further_pairs(setting, part, whole, quarter)} if quarter else {}),
    }


def on_cpu(setting: Setting, arms: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Run arms in turn; yield the result after every run."""
    memory = {}
    for name in arms:
        memory[name] = memory_in_own_process(name)
        print(f"{name}: peak {memory[name] / 1e9:.2f} GB", flush=True)
    whole: Runs = {}
    for name in arms * repeats:
        whole.setdefault(name, []).append(ARMS[name](setting))
        yield result(setting, setting, whole, {}, memory)


def on_gpu(setting: Setting, arms: Sequence[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Run arms in turn, on a part of the pairs and on all; yield the result after every arm."""
    part = replace(setting, pairs=setting.pairs.select(range(len(setting.pairs) // 4)))
    whole: Runs = {}
    quarter: Runs = {}
    memory: dict[str, int] = {}
    failed: dict[str, str] = {}
    for turn, name in product(range(repeats), arms):
        if name in failed:
            continue
        try:
            if turn == 0:
                run_on_gpu(name, part)  # compiles kernels
            seconds_of_part, _ = run_on_gpu(name, part)
            seconds, memory[name] = run_on_gpu(name, setting)
        except Exception as error:  # one arm of several must not end a session on a GPU
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name} failed: {failed[name]}", flush=True)
        else:
            quarter.setdefault(name, []).append(seconds_of_part)
            whole.setdefault(name, []).append(seconds)
        if whole:
            yield {**result(setting, part, whole, quarter, memory), "failed": failed}


def main() -> None:
    """Run and write `speed-<model>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", choices=SETTINGS, default="smollm2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = SETTINGS[options.model](options.data, options.pairs)
    if options.memory_of:
        ARMS[options.memory_of](setting)
        print(json.dumps(resident_peak()))
        return
    measure, usual = (on_gpu, ON_GPU) if DEVICE.type == "cuda" else (on_cpu, ON_CPU)
    for record in measure(setting, options.arms or usual, options.repeats):
        write_json(options.output / f"speed-{options.model}.json", record)
        print({name: f"{seconds:.4f} s/pair" for name, seconds in record["median"].items()}, flush=True)
    print(f"DPO needs {record['needed_flops_per_pair_of_dpo'] / 1e12:.3f} TFLOP a pair")
    print(f"of the device's peak that is {record['utilisation']}; further pairs: {record.get('further_pairs')}")


if __name__ == "__main__":
    main()
