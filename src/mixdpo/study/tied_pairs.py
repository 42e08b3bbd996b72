"""Ties made on purpose: two answers to a prompt that are about equally good, far above or far below the usual.

Whether imitating tied answers helps should depend on how good they are. So a study has both kinds, on the same
prompts, and the coin that names one of the two the chosen one falls alike in both. The grades of a tie may differ by
one: a rater calls them equal, and the coin makes the label right in half of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table
from mixdpo.evaluation.constraints import constraints_from_text, constraints_met
from mixdpo.evaluation.held_out_prompts import DATA

Quality = Literal["best", "worst"]
ANSWERS_FILE: Final = Path(str(DATA / "tie_answers.jsonl.gz"))
"""Eight answers of SmolLM2-135M-Instruct to each of some prompts that the demo's pairs do not have."""
_COLUMNS: Final = ("instruction", "output", "finished", "demands")


@dataclass(frozen=True, kw_only=True)
class TieSettings:
    """Which pairs are ties, and how good their answers are.

    Raises:
        InputError: a value is out of its range, or the answers cannot be read.
    """

    quality: Quality = field(
        metadata={
            "help": "best or worst: of the answers to a prompt, two of the highest or the lowest grade that two have"
        }
    )
    share: float = field(
        default=0.5, metadata={"help": "share of the pairs that are ties; the others are not rated equal"}
    )
    answers: str | None = field(
        default=None,
        metadata={
            "help": "several answers to each prompt, as mixdpo generate --samples writes them, with a column demands; "
            "null: the package's"
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"bench.ties.share is {self.share}; it must be between 0 and 1")

    @property
    def file(self) -> Path:
        """The file of the answers."""
        return ANSWERS_FILE if self.answers is None else Path(self.answers).expanduser()

    @cached_property
    def prompts(self) -> list[TiedAnswers]:
        """The prompts of the file that have both ties."""
        return tied_answers(read_answers(self.file))

    @cached_property
    def answer_variance(self) -> float:
        """Variance of the grade of a sampled answer within its prompt, the mean over the file's prompts."""
        grades: dict[str, list[int]] = {}
        for row in read_answers(self.file):
            met = constraints_met(row["output"], constraints_from_text(row["demands"]))
            grades.setdefault(row["instruction"], []).append(met)
        return float(np.mean([np.var(one, ddof=1) for one in grades.values() if len(one) > 1]))


@dataclass(frozen=True)
class TiedAnswers:
    """A prompt with two ties of four answers, one tie better than the other.

    Attributes:
        prompt: the user's message.
        demands: its constraints, as the demo's tables hold them.
        best, worst: the mean grade of two answers, and these, the better one last.
    """

    prompt: str
    demands: str
    best: tuple[float, tuple[str, str]]
    worst: tuple[float, tuple[str, str]]

    def tie(self, quality: Quality, swapped: bool) -> dict[str, Any]:
        """Return one of the two ties as a training pair; `swapped` says which of its answers is called chosen."""
        grade, answers = self.best if quality == "best" else self.worst
        chosen, rejected = answers[::-1] if swapped else answers
        return self._pair(chosen, rejected, grade, grade)

    def preference(self) -> dict[str, Any]:
        """Return the best answer against the worst, with their true grades."""
        constraints = constraints_from_text(self.demands)
        chosen, rejected = self.best[1][1], self.worst[1][0]
        grades = (float(constraints_met(text, constraints)) for text in (chosen, rejected))
        return self._pair(chosen, rejected, *grades)

    def _pair(self, chosen: str, rejected: str, score_chosen: float, score_rejected: float) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": self.prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "score_chosen": score_chosen,
            "score_rejected": score_rejected,
            "demands": self.demands,
        }


def read_answers(file: Path) -> list[dict[str, Any]]:
    """Read several answers to each prompt.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    rows = read_table(file).rows()
    for column in _COLUMNS:
        if column not in rows[0]:
            raise InputError(
                "a file of answers needs it", file=file, column=column,
                hint="scripts/make_tie_answers.py makes such a file",
            )  # fmt: skip
    return rows


def tied_answers(rows: Sequence[Mapping[str, Any]]) -> list[TiedAnswers]:
    """Find the two ties of each prompt, in the order of the prompts; prompts that do not have both are left out.

    They are the highest and the lowest neighbours by grade that differ by one at most, and share no answer. Answers
    that were cut, empty ones, and texts that a prompt has already, do not count.

    Args:
        rows: answers, with `instruction`, `output`, `finished` and `demands`.
    """
    by_prompt: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        answers = by_prompt.setdefault((row["instruction"], row["demands"]), {})
        if row["finished"] and row["output"].strip():
            answers[row["output"]] = None
    found = []
    for (prompt, demands), texts in by_prompt.items():
        constraints = constraints_from_text(demands)
        graded = sorted(((constraints_met(text, constraints), text) for text in texts), key=lambda one: one[0])
        near = [i for i, (low, high) in enumerate(pairwise(graded)) if high[0] - low[0] <= 1]
        if not near or near[-1] < near[0] + 2:
            continue
        worst, best = (
            ((graded[i][0] + graded[i + 1][0]) / 2, (graded[i][1], graded[i + 1][1])) for i in (near[0], near[-1])
        )
        if best[0] > worst[0]:
            found.append(TiedAnswers(prompt, demands, best=best, worst=worst))
    return found


def draw_ties(
    prompts: Sequence[TiedAnswers], quality: Quality, count: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw so many prompts for ties; the others give preferences. Neither draws nor coins depend on the quality.

    Returns:
        A tie of each prompt that was drawn, and of each other prompt its best answer against its worst.
    """
    order = rng.permutation(len(prompts))
    coin = rng.random(count) < 0.5
    ties = [prompts[i].tie(quality, bool(swap)) for i, swap in zip(np.sort(order[:count]), coin, strict=True)]
    return ties, [prompts[i].preference() for i in np.sort(order[count:])]
