"""The task of verifiable constraints: the demo's pairs and prompts, graded by a program, with a rater's errors on top.

A rater blurs true grades, so that small margins flip more often, and calls a share of the pairs ties. Or ties are made
on purpose, of answers that are far better or far worse than the usual (`tied_pairs`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path, digest
from mixdpo.evaluation.constraints import (
    Constraint,
    constraints_from_text,
    constraints_met,
    constraints_to_text,
    prompt_text,
    sample_constraints,
    task_of,
)
from mixdpo.evaluation.held_out_prompts import DATA
from mixdpo.generation.chat_model import Completion
from mixdpo.study.task import ANSWER_MEASURES, HeldOutData, Split
from mixdpo.study.tied_pairs import TiedAnswers, TieSettings, draw_ties


@dataclass(frozen=True, kw_only=True)
class RaterSettings:
    """How a rater differs from the truth.

    Raises:
        InputError: a value is out of its range.
    """

    noise: float = field(
        default=0.7, metadata={"help": "standard deviation of the error of a grade, in the unit of the grades"}
    )
    tie_share: float = field(
        default=0.12, metadata={"help": "share of pairs, those of the smallest observed margins, that are called ties"}
    )

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise InputError(f"bench.rater.noise is {self.noise}; it must be 0 or more")
        if not 0 <= self.tie_share < 1:
            raise InputError(f"bench.rater.tie_share is {self.tie_share}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ConstraintTask:
    """On-policy pairs of SmolLM2-135M-Instruct; an answer's true grade is the number of constraints it meets, 0 to 3.

    A seed draws the training pairs and, with a rater, its errors. All seeds draw from one pool, so of n of its N pairs
    two seeds have n / N of theirs in common: seeds differ by that much less than experiments with pairs of their own.
    With ties made on purpose the others are pairs whose true grades differ, of the demo and of prompts with answers
    for ties that are not drawn; neither they nor the prompts and coins of the ties depend on the ties' quality.

    Raises:
        InputError: a value is out of its range.
    """

    pairs: int = field(default=320, metadata={"help": "training pairs of every seed, a random subset"})
    rater: RaterSettings | None = field(
        default=None, metadata={"help": "errors of the grades that training sees; null: the true grades"}
    )
    ties: TieSettings | None = field(
        default=None, metadata={"help": "{quality, share, answers}: ties made on purpose, in place of a rater"}
    )
    held_out_tasks: int = field(
        default=16, metadata={"help": "tasks of the training file whose pairs are set aside for measuring"}
    )
    prompts_per_task: int = field(
        default=3,
        metadata={"help": "validation and test prompts per task; above 3, further constraints are drawn"},
    )
    seed: int = field(
        default=0, metadata={"help": "decides which tasks are set aside and which further constraints are drawn"}
    )

    primary: str = field(default="demands_met", init=False)
    training_settings: ClassVar[Sequence[str]] = ("rater", "ties")
    """Settings that decide training pairs alone, so that an arm may have its own."""

    def __post_init__(self) -> None:
        if self.rater is not None and self.ties is not None:
            raise InputError("bench.rater and bench.ties both say which pairs are ties", hint="leave one of them out")
        available = self._available
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
        settings = asdict(self)
        content = [(DATA / f"{split}.parquet").read_bytes() for split in ("train", "validation", "test")]
        if self.ties is None:
            settings.pop("ties")  # the runs of before there were such ties keep their keys
        else:
            settings["ties"].pop("answers")  # known by what it holds, not by where it lies
            content.append(self.ties.file.read_bytes())
        return digest([repr(settings), *content])

    def write_train(self, seed: int, path: Path) -> None:
        """Draw a seed's pairs and let the rater grade them, or put ties among them."""
        rng = np.random.default_rng([self.seed, seed])
        pool: list[dict[str, Any]] = self._graded
        ties: list[dict[str, Any]] = []
        if self.ties is not None:
            ties, others = draw_ties(self._tie_pool, self.ties.quality, round(self.ties.share * self.pairs), rng)
            pool = pool + others
        rows = [pool[i] for i in np.sort(rng.permutation(len(pool))[: self.pairs - len(ties)])]
        _write((rate(rows, self.rater, rng) if self.rater is not None else rows) + ties, path)

    def held_out(self, split: Split, folder: Path) -> HeldOutData:
        """Return the split's prompts and, for the test, the pairs of the tasks set aside with their true grades."""
        from mixdpo.difficulty.scored_pairs import load_pairs

        demands = self._demands(split)
        prompts = [[{"role": "user", "content": prompt_text(task, asked)}] for task, asked in demands]
        groups = [task for task, _ in demands]
        if split == "validation":
            return HeldOutData(prompts=prompts, prompt_groups=groups, pairs=None, pair_groups=[])
        path = folder / "test-pairs.parquet"
        _write(self._pools[1], path)
        pairs = load_pairs(str(path))
        task_by_text = {row["prompt"][-1]["content"]: _task(row) for row in self._pools[1]}
        tasks = [task_by_text[row["prompt"][-1]["content"]] for row in pairs]
        return HeldOutData(prompts=prompts, prompt_groups=groups, pairs=pairs, pair_groups=tasks)

    def judge(self, split: Split, answers: Sequence[Completion]) -> dict[str, list[float]]:
        """Count the constraints that each answer meets."""
        asked = [demands for _, demands in self._demands(split)]
        met = [float(constraints_met(answer.text, wanted)) for answer, wanted in zip(answers, asked, strict=True)]
        return {"demands_met": met}

    @cached_property
    def _pools(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Pairs to train on, and those of the tasks set aside for the test."""
        rows = _rows("train")
        tasks = sorted({_task(row) for row in rows})
        aside = set(random.Random(self.seed).sample(tasks, min(max(self.held_out_tasks, 0), len(tasks))))
        return [row for row in rows if _task(row) not in aside], [row for row in rows if _task(row) in aside]

    @cached_property
    def _graded(self) -> list[dict[str, Any]]:
        """Pairs to draw from that are no ties made on purpose."""
        pool = self._pools[0]
        return pool if self.ties is None else [row for row in pool if row["score_chosen"] > row["score_rejected"]]

    @cached_property
    def _tie_pool(self) -> list[TiedAnswers]:
        """Prompts with ties, on the tasks to train on."""
        if self.ties is None:
            return []
        aside = {_task(row) for row in self._pools[1]}
        return [
            one for one in self.ties.prompts if task_of(one.prompt, constraints_from_text(one.demands)) not in aside
        ]

    @property
    def _available(self) -> int:
        """The most pairs that a seed can have."""
        if self.ties is None:
            return len(self._graded)
        return min(int(len(self._tie_pool) / self.ties.share), len(self._graded) + len(self._tie_pool))

    def _demands(self, split: Split) -> list[tuple[str, list[Constraint]]]:
        """Return task and constraints of every prompt of a split, in a fixed order."""
        by_text = {row["prompt"][-1]["content"]: row for row in _rows(split)}
        found = [(_task(row), constraints_from_text(row["demands"])) for row in by_text.values()]
        rng = random.Random(self.seed)
        by_task: dict[str, list[list[Constraint]]] = {}
        for task, demands in found:
            by_task.setdefault(task, []).append(demands)
        for task, asked in by_task.items():
            texts = {constraints_to_text(demands) for demands in asked}
            while len(asked) < self.prompts_per_task:
                drawn = sample_constraints(rng)
                if constraints_to_text(drawn) not in texts:
                    texts.add(constraints_to_text(drawn))
                    asked.append(drawn)
            by_task[task] = asked[: self.prompts_per_task]
        return [(task, demands) for task, asked in by_task.items() for demands in asked]


def rate(rows: Sequence[dict[str, Any]], settings: RaterSettings, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the pairs as a rater sees them.

    Every answer gets its true grade plus a normal error; the answer with the higher observed grade is the chosen one,
    right or not. The pairs of the smallest observed margins become ties: equal grades, the chosen one by a coin flip,
    as where ratings are coarse. A second rater of the same kind gives each pair the column `margin/second_rater`,
    signed by the first one's choice.

    Args:
        rows: pairs with `chosen`, `rejected` and true `score_chosen`, `score_rejected`.
        settings: the rater.
        rng: source of errors and coin flips.
    """
    true = np.array([(row["score_chosen"], row["score_rejected"]) for row in rows], dtype=np.float64).reshape(-1, 2)
    observed = true + settings.noise * rng.standard_normal(true.shape)
    second = true + settings.noise * rng.standard_normal(true.shape)
    coin = rng.random(len(rows))  # also decides pairs whose observed margin is 0 without noise
    margin = observed[:, 0] - observed[:, 1]
    swapped = (margin < 0) | ((margin == 0) & (coin < 0.5))
    ties = np.argsort(np.abs(margin), kind="stable")[: round(settings.tie_share * len(rows))]
    swapped[ties] = coin[ties] < 0.5
    observed[ties] = observed[ties].mean(axis=1, keepdims=True)
    result = []
    for row, (chosen, rejected), other, swap in zip(rows, observed, second, swapped, strict=True):
        sides = ("rejected", "chosen") if swap else ("chosen", "rejected")
        grades = (rejected, chosen) if swap else (chosen, rejected)
        result.append(
            {
                **row,
                "chosen": row[sides[0]],
                "rejected": row[sides[1]],
                "score_chosen": float(grades[0]),
                "score_rejected": float(grades[1]),
                "margin/second_rater": float((other[1] - other[0]) if swap else (other[0] - other[1])),
            }
        )
    return result


def _rows(split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(str(DATA / f"{split}.parquet")).to_pylist()
    return rows


def _task(row: dict[str, Any]) -> str:
    """Return the task of a prompt: its text without the constraints, of which no task has its own."""
    return task_of(row["prompt"][-1]["content"], constraints_from_text(row["demands"]))


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
