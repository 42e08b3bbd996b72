"""Seconds per pair and peak memory of whole training runs, against TRL in the same process and in turn.

    python benchmarks/speed.py [PAIRS.parquet] [--pairs 12] [--repeats 5] [--model smollm2|llama-1b] [--arms ARM ...]

Model loading is left out, the reference pass is included. Time: every arm once, then every arm again, medians.
Peak memory: every arm once in a process of its own. PAIRS has prompt, chosen, rejected as messages, and scores;
without it texts of UltraFeedback's lengths are made up.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from arms import ARMS, RESULTS, TRL, conditions, needed_flops, peak_flops, random_llama_1b, smollm2

from mixdpo.io import write_json

# Arms that compute DPO on every pair, for which `needed_flops` holds.
ALL_DPO = (TRL, f"{TRL}, live reference", "mixdpo DPO, padded rows", "mixdpo DPO")
SETTINGS = {"smollm2": smollm2, "llama-1b": random_llama_1b}


def peak_memory() -> int:
    """Peak memory of this process in bytes: of the device if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run and write `results/speed-<model>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", choices=SETTINGS, default="smollm2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = SETTINGS[options.model](options.data, options.pairs)
    if options.memory_of:
        ARMS[options.memory_of](setting)
        print(json.dumps(peak_memory()))
        return

    memory = {}
    for name in options.arms:
        command = [sys.executable, __file__, *sys.argv[1:], f"--memory-of={name}"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        memory[name] = json.loads(result.stdout.splitlines()[-1])
        print(f"{name}: peak {memory[name] / 1e9:.2f} GB", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in options.arms}
    for repeat in range(options.repeats):
        for name in options.arms:
            seconds[name].append(ARMS[name](setting) / len(setting.pairs))
            print(f"{repeat + 1}/{options.repeats} {name}: {seconds[name][-1]:.3f} s/pair", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    needed = needed_flops(setting) / len(setting.pairs)
    peak = peak_flops()
    record = {
        **conditions(),
        "model": setting.name,
        "pairs": len(setting.pairs),
        "settings": setting.shared(""),
        "seconds_per_pair": seconds,
        "median": median,
        "needed_flops_per_pair_of_dpo": needed,
        "utilisation": {name: needed / median[name] / peak for name in median if name in ALL_DPO} if peak else None,
        "peak_bytes": memory,
    }
    print(f"DPO needs {needed / 1e12:.3f} TFLOP a pair; of the device's peak that is {record['utilisation']}")
    write_json(RESULTS / f"speed-{options.model}.json", record)


if __name__ == "__main__":
    main()
