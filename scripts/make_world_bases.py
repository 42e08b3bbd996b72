"""Pretrain the bases of the worlds that `mixdpo map` trains, and write them into the package.

    python scripts/make_world_bases.py [WORLD ...]

Takes one to four minutes a base on one core. Processors round differently, so that another machine's bases differ a
little.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import save_file

from mixdpo.study.world.base import STEPS, pretrain
from mixdpo.study.world.worlds import BASES, WORLDS


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    folder = Path(str(files("mixdpo.study.world"))) / "bases"
    folder.mkdir(exist_ok=True)
    for name in names or WORLDS:
        for seed in range(BASES):
            model = pretrain(WORLDS[name](), seed, STEPS)
            weights = {key: value.contiguous() for key, value in model.state_dict().items()}
            save_file(weights, folder / f"{name}-{seed}.safetensors")
            print(f"{name}-{seed}: {sum(value.numel() for value in weights.values()):,} weights", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
