"""Pretrain the bases of the worlds that `mixdpo map` trains, and write them into the package.

    python scripts/make_world_bases.py [WORLD-NUMBER ...]

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
    for name in names or [f"{world}-{number}" for world in WORLDS for number in range(BASES)]:
        world, _, seed = name.partition("-")
        model = pretrain(WORLDS[world](), int(seed), STEPS[world])
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors")
        print(f"{name}: {sum(value.numel() for value in weights.values()):,} weights", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
