"""Which runs a map consists of, each with a key made of all that decides its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Any, Final

import numpy as np

from mixdpo.common.files import digest
from mixdpo.common.settings import key_values
from mixdpo.study.study_settings import objective_reads_beta
from mixdpo.study.world.map_settings import START, MapSettings
from mixdpo.study.world.worlds import BASES, WORLDS, base_file
from mixdpo.training.run_folder import versions

_FORMAT: Final = 1
"""Version of what a run does with its settings; a change that moves numbers raises it, and old runs are run anew."""
Setting = tuple[float, float]
"""A learning rate and a beta."""
Choices = Mapping[tuple[str, str, str], Setting]
"""By world, tuned cell and arm."""


@dataclass(frozen=True, kw_only=True)
class MapRun:
    """One policy: trained by an arm on the pairs of a cell and seed, and measured. The arm `start` trains nothing."""

    stage: str
    world: str
    cell: str
    arm: str
    seed: int
    learning_rate: float | None = None
    beta: float | None = None

    def key(self, settings: MapSettings) -> str:
        """Return a digest of all that decides the run's numbers; names of arms and cells do not."""
        cell = settings.worlds[self.world].cells[self.cell]
        work: list[Any] = [
            _FORMAT, libraries(), fingerprint(self.world, self.seed % BASES), settings.pairs, settings.batch_size,
            type(cell.pairs).__name__, asdict(cell.pairs), self.seed,
        ]  # fmt: skip
        if self.arm != START:
            arm = settings.arms[self.arm]
            beta = self.beta if objective_reads_beta(arm.plan, arm.train) else None
            work += [cell.epochs, key_values(arm.plan), dict(arm.train), arm.gate, arm.order, self.learning_rate, beta]
        return digest([json.dumps(work, sort_keys=True)], size=8)


@cache  # of thousands of keys
def libraries() -> dict[str, str]:
    """Return the versions of Python and of what computes a run."""
    return versions()


@cache
def fingerprint(world: str, number: int) -> str:
    """Return a digest of a world and one of its bases: of the base's weights, and of what the language does.

    Prompts, writers' answers and rewards of a fixed draw stand for the language, so that a change of what it does is
    another world, and one of how it is written is not.
    """
    language, random = WORLDS[world](), np.random.default_rng(0)
    prompts = language.prompts(64, random)
    answers = language.write(prompts, np.linspace(0, 1, 64), random)
    rewards = language.reward(prompts, answers)
    weights = base_file(world, number).read_bytes()
    return digest([weights, *language.vocabulary, *(values.tobytes() for values in (prompts, answers, rewards))])


def tuning_runs(settings: MapSettings) -> Iterator[MapRun]:
    """Yield the trials of every arm in the cells that arms are tuned in; none of a grid of a single setting."""
    for world, of_world in settings.worlds.items():
        tuned = {name: settings.arms_of(cell) for name, cell in of_world.cells.items() if cell.tuned}
        for (name, arms), seed in product(tuned.items(), of_world.tuning.seeds):
            for arm in arms:
                for rate, beta in grid_of(settings, world, arm):
                    run = MapRun(
                        stage="tune", world=world, cell=name, arm=arm, seed=seed, learning_rate=rate, beta=beta
                    )
                    yield run


def final_runs(settings: MapSettings, chosen: Choices) -> Iterator[MapRun]:
    """Yield the runs of every cell, seed and arm with tuned settings, and before them the start on the same pairs."""
    for (world, name, cell), seed in product(settings.cells(), settings.seeds):
        yield MapRun(stage="final", world=world, cell=name, arm=START, seed=seed)
        for arm in settings.arms_of(cell):
            grid = grid_of(settings, world, arm)
            rate, beta = grid[0] if len(grid) == 1 else chosen[world, settings.worlds[world].tuned_cell(name), arm]
            rate = rate if cell.learning_rate is None else cell.learning_rate
            yield MapRun(stage="final", world=world, cell=name, arm=arm, seed=seed, learning_rate=rate, beta=beta)


def final_count(settings: MapSettings, world: str) -> int:
    """Return how many final runs a world has, whatever arms are tuned to."""
    cells = settings.worlds[world].cells.values()
    return sum(1 + len(settings.arms_of(cell)) for cell in cells) * len(settings.seeds)


def grid_of(settings: MapSettings, world: str, arm: str) -> list[Setting]:
    """Return the settings that an arm tries in a world."""
    grid = settings.arms[arm].grid(settings.worlds[world].tuning)
    return list(product(sorted(grid.learning_rate), sorted(grid.beta)))
