"""The bench of checkable demands: the demo's pairs and prompts, graded by a program, with a rater's errors on top."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, digest
from mixdpo.data import load_pairs
from mixdpo.evaluation.constraints import (
    Demand,
    demands_from_text,
    demands_met,
    demands_to_text,
    prompt_text,
    sample_demands,
    task_of,
)
from mixdpo.generation.local_generation import Answer
from mixdpo.study.rater import RaterSettings, rate
from mixdpo.study.task import ANSWER_MEASURES, HeldOut, Split

DATA: Final = files("mixdpo.evaluation") / "data"


@dataclass(frozen=True, kw_only=True)
class DemandBench:
    """On-policy pairs of SmolLM2-135M-Instruct; an answer's true grade is the number of demands it meets, 0 to 3.

    A seed draws the training pairs and, with a rater, its errors. All seeds draw from one pool, so of n of its N pairs
    two seeds have n / N of theirs in common: seeds differ by that much less than experiments with pairs of their own.

    Raises:
        InputError: a value is out of its range.
    """

    pairs: int = field(default=320, metadata={"help": "training pairs of every seed, a random subset"})
    rater: RaterSettings | None = field(
        default=None, metadata={"help": "errors of the grades that training sees; null: the true grades"}
    )
    held_out_tasks: int = field(
        default=16, metadata={"help": "tasks of the training file whose pairs are kept for measuring"}
    )
    prompts_per_task: int = field(
        default=3,
        metadata={"help": "validation and test prompts per task; above 3, further demands are drawn"},
    )
    seed: int = field(default=0, metadata={"help": "decides which tasks are kept and which further demands are drawn"})

    primary: str = field(default="demands_met", init=False)

    def __post_init__(self) -> None:
        available = len(self._pools[0])
        for name, wrong in (
            ("pairs", not 2 <= self.pairs <= available),
            ("held_out_tasks", self.held_out_tasks < 2),
            ("prompts_per_task", self.prompts_per_task < 1),
        ):
            if wrong:
                raise InputError(
                    f"bench.{name} is {getattr(self, name)}",
                    hint=f"with these settings {available} pairs can be trained",
                )

    @property
    def validation_measures(self) -> Sequence[str]:
        """What is measured on the validation split: arms are tuned by their answers alone."""
        return ("demands_met", *ANSWER_MEASURES)

    def fingerprint(self) -> str:
        """Return a digest of the settings and of the files."""
        content = [(DATA / f"{split}.parquet").read_bytes() for split in ("train", "validation", "test")]
        return digest([repr(asdict(self)), *content])

    def write_train(self, seed: int, path: Path) -> None:
        """Draw a seed's pairs and let the rater grade them."""
        rng = np.random.default_rng([self.seed, seed])
        rows = [self._pools[0][i] for i in np.sort(rng.permutation(len(self._pools[0]))[: self.pairs])]
        _write(rate(rows, self.rater, rng) if self.rater is not None else rows, path)

    def held_out(self, split: Split, folder: Path) -> HeldOut:
        """Return the split's prompts and, for the test, the pairs of the kept tasks with their true grades."""
        demands = self._demands(split)
        prompts = [[{"role": "user", "content": prompt_text(task, asked)}] for task, asked in demands]
        groups = [task for task, _ in demands]
        if split == "validation":
            return HeldOut(prompts=prompts, prompt_groups=groups, pairs=None, pair_groups=[])
        path = folder / "test-pairs.parquet"
        _write(self._pools[1], path)
        pairs = load_pairs(str(path))
        task_by_text = {row["prompt"][-1]["content"]: _task(row) for row in self._pools[1]}
        tasks = [task_by_text[row["prompt"][-1]["content"]] for row in pairs]
        return HeldOut(prompts=prompts, prompt_groups=groups, pairs=pairs, pair_groups=tasks)

    def judge(self, split: Split, answers: Sequence[Answer]) -> dict[str, list[float]]:
        """Count the demands that each answer meets."""
        asked = [demands for _, demands in self._demands(split)]
        met = [float(demands_met(answer.text, wanted)) for answer, wanted in zip(answers, asked, strict=True)]
        return {"demands_met": met}

    @cached_property
    def _pools(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Pairs to train on, and those of the tasks kept for the test."""
        rows = _rows("train")
        tasks = sorted({_task(row) for row in rows})
        kept = set(random.Random(self.seed).sample(tasks, min(max(self.held_out_tasks, 0), len(tasks))))
        return [row for row in rows if _task(row) not in kept], [row for row in rows if _task(row) in kept]

    def _demands(self, split: Split) -> list[tuple[str, list[Demand]]]:
        """Return task and demands of every prompt of a split, in a fixed order."""
        by_text = {row["prompt"][-1]["content"]: row for row in _rows(split)}
        found = [(_task(row), demands_from_text(row["demands"])) for row in by_text.values()]
        rng = random.Random(self.seed)
        by_task: dict[str, list[list[Demand]]] = {}
        for task, demands in found:
            by_task.setdefault(task, []).append(demands)
        for task, asked in by_task.items():
            texts = {demands_to_text(demands) for demands in asked}
            while len(asked) < self.prompts_per_task:
                drawn = sample_demands(rng)
                if demands_to_text(drawn) not in texts:
                    texts.add(demands_to_text(drawn))
                    asked.append(drawn)
            by_task[task] = asked[: self.prompts_per_task]
        return [(task, demands) for task, asked in by_task.items() for demands in asked]


def _rows(split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(str(DATA / f"{split}.parquet")).to_pylist()
    return rows


def _task(row: dict[str, Any]) -> str:
    """Return the task of a prompt: its text without the demands, of which no task has its own."""
    return task_of(row["prompt"][-1]["content"], demands_from_text(row["demands"]))


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
