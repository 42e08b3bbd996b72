"""Seconds per pair and peak memory of whole training runs, against TRL in the same process and in turn.

    python benchmarks/speed.py [PAIRS.parquet] [--pairs 12] [--repeats 5] [--model smollm2|llama-1b] [--arms ARM ...]

Model loading is left out, the reference pass is included. Time: every arm once, then every arm again, medians.
PAIRS has prompt, chosen, rejected as messages, and scores; without it texts of UltraFeedback's lengths are made up.

Peak memory: on a CPU of a process of its own, on a GPU what a run takes there. On a GPU, where a run takes seconds,
every arm runs once beforehand, for kernels are compiled then, and each time also on a quarter of the pairs: what
starting up takes is in both runs, so that the difference is the time of further pairs. With `--liger` all arms have
the layers of liger-kernel.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
from arms import ARMS, DEVICE, RESULTS, TRL, Setting, conditions, needed_flops, peak_flops, random_llama_1b, smollm2

from mixdpo.common.files import write_json

# Arms that compute DPO on every pair, for which `needed_flops` holds.
ALL_DPO = (TRL, f"{TRL}, live reference", "mixdpo DPO, padded rows", "mixdpo DPO")
SETTINGS = {"smollm2": smollm2, "llama-1b": random_llama_1b}
# Those that a GPU has the memory and a short session the time for.
ON_GPU = (TRL, "mixdpo DPO", "mixdpo, hardest 10 % to SFT", "mixdpo, hardest 50 % to SFT")


def resident_peak() -> int:
    """Peak of this process's resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_in_own_process(name: str) -> int:
    """Run an arm in a process of its own with the same arguments; return the peak of its resident memory in bytes."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--memory-of={name}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    peak: int = json.loads(result.stdout.splitlines()[-1])
    return peak


def run(name: str, setting: Setting) -> tuple[float, int]:
    """Run an arm; return its seconds, and the peak in bytes of the GPU's memory that it took, 0 without a GPU."""
    if DEVICE.type == "cpu":
        return ARMS[name](setting), 0
    gc.collect()  # the model of the run before
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = ARMS[name](setting)
    return seconds, torch.cuda.max_memory_allocated() - before


def further_pairs(
    setting: Setting, part: Setting, seconds: dict[str, list[float]], of_part: dict[str, list[float]]
) -> dict[str, Any]:
    """Return what the pairs of `setting` that are not in `part` take: seconds a pair, share of the device's peak."""
    pairs, peak = len(setting.pairs) - len(part.pairs), peak_flops()
    needed = (needed_flops(setting) - needed_flops(part)) / pairs
    median = {
        name: (statistics.median(seconds[name]) * len(setting.pairs) - statistics.median(of_part[name])) / pairs
        for name in seconds
    }
    return {"pairs": pairs, "median": median, "utilisation": utilisation(median, needed, peak)}


def utilisation(median: dict[str, float], needed: float, peak: float | None) -> dict[str, float] | None:
    """Return the share of the device's peak that the needed operations (of a pair) take, by arm."""
    return {name: needed / seconds / peak for name, seconds in median.items() if name in ALL_DPO} if peak else None


def main() -> None:
    """Run and write `results/speed-<model>.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", choices=SETTINGS, default="smollm2")
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM")
    parser.add_argument("--liger", action="store_true")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setting = SETTINGS[options.model](options.data, options.pairs)
    if options.liger:
        # Its loss would replace the model's forward.
        layers = {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": False}}
        setting = replace(setting, arguments={**setting.arguments, **layers})
    if options.memory_of:
        ARMS[options.memory_of](setting)
        print(json.dumps(resident_peak()))
        return

    on_gpu = DEVICE.type == "cuda"
    arms = options.arms or (ON_GPU if on_gpu else list(ARMS))
    part = replace(setting, pairs=setting.pairs.select(range(len(setting.pairs) // 4)))
    needed = needed_flops(setting) / len(setting.pairs)
    memory: dict[str, int] = {}
    for name in arms:
        memory[name] = run(name, setting)[1] if on_gpu else memory_in_own_process(name)
        print(f"{name}: peak {memory[name] / 1e9:.2f} GB", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    of_part: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(options.repeats):
        for name in arms:
            if on_gpu:
                of_part[name].append(run(name, part)[0])
            whole, peak = run(name, setting)
            seconds[name].append(whole / len(setting.pairs))
            memory[name] = peak or memory[name]  # on a GPU without what compiling took
            print(f"{repeat + 1}/{options.repeats} {name}: {seconds[name][-1]:.4f} s/pair", flush=True)
        # Written every time, for a session on a GPU may end before the last.
        median = {name: statistics.median(values) for name, values in seconds.items()}
        record = {
            **conditions(),
            "model": setting.name,
            "pairs": len(setting.pairs),
            "settings": setting.shared(""),
            "seconds_per_pair": seconds,
            "median": median,
            "needed_flops_per_pair_of_dpo": needed,
            "utilisation": utilisation(median, needed, peak_flops()),
            "peak_bytes": memory,
            **({"further_pairs": further_pairs(setting, part, seconds, of_part)} if on_gpu else {}),
        }
        write_json(RESULTS / f"speed-{options.model}{'-liger' if options.liger else ''}.json", record)
    print(f"DPO needs {needed / 1e12:.3f} TFLOP a pair; of the device's peak that is {record['utilisation']}")
    if on_gpu:
        print(f"further pairs, seconds each and of the device's peak: {record['further_pairs']}")


if __name__ == "__main__":
    main()
