"""Preference variance: how much a policy's answers to a prompt differ in a reward's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_ranges

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class PreferenceVarianceSettings:
    """Settings of `preference_variance`."""

    answers: str | None = field(
        default=None,
        metadata={"help": "file of several rated answers to each prompt, as `mixdpo rate` writes it"},
    )
    scale: float = field(
        default=1.0,
        metadata={"help": "difference of two scores that is one nat of log-odds; 1: of reward models", "above": 0},
    )

    def __post_init__(self) -> None:
        check_ranges(self)


def preference_variance_margin(dataset: Dataset, settings: PreferenceVarianceSettings) -> np.ndarray:
    """Return the preference variance of each pair's prompt; float64 in [0, 1/4], shape (N,), equal for equal prompts.

    PVar(x) = Var over two answers y, y' of sigmoid((r(x, y) - r(x, y')) / scale), of which the mean is 1/2 (Guo et al.
    2025, arXiv 2510.13022). 0: all answers are equally good, and DPO learns nothing from the prompt.

    Raises:
        InputError: no file is given or it cannot be read, or a pair's prompt has fewer than two answers with a score.
    """
    from mixdpo.data.arrays import place_of
    from mixdpo.pairs.own_answers import read_own_answers
    from mixdpo.pairs.spoken import PairsByPrompt

    if settings.answers is None:
        raise InputError(
            "preference_variance needs rewards of several answers to each prompt",
            hint="make them with `mixdpo generate --samples` and `mixdpo rate`, and name the file with "
            "--score.preference_variance.answers FILE",
        )
    rows = PairsByPrompt.of(dataset).rows
    answers = read_own_answers(Path(settings.answers), list(rows))
    margin = np.full(len(dataset), np.nan)
    for chat, of_prompt in answers.items():
        margin[list(rows[chat])] = variance_of([answer.score / settings.scale for answer in of_prompt])
    missing = np.flatnonzero(np.isnan(margin))
    if len(missing):
        raise InputError(
            f"{settings.answers} has fewer than two rated answers to the prompts of {len(missing):,} of "
            f"{len(dataset):,} pairs, this one first",
            **place_of(dataset, int(missing[0])),
            hint="answer and rate these prompts too, or take their pairs out of the data",
        )
    return margin


def variance_of(rewards: Sequence[float]) -> float:
    """Return the mean of (sigmoid(r_i - r_j) - 1/2)^2 over different answers i and j; NaN for fewer than two.

    sigmoid(d) - 1/2 is tanh(d / 2) / 2. Rewards that are NaN are left out.
    """
    known = np.asarray(rewards, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return np.nan
    apart = np.tanh((known[:, None] - known) / 2) / 2  # 0 of an answer with itself
    return float((apart**2).sum() / (len(known) * (len(known) - 1)))
