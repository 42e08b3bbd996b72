"""A policy's answers judged against those of the start: the win rate, and what is kept and said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.statistics import Interval, mean_interval
from mixdpo.generation.prompts import Prompt
from mixdpo.judges.judge import Judge
from mixdpo.pairs.answered import AnsweredPrompt
from mixdpo.pairs.compare_models import NEWEST, PREFERRED, RATING, Compared, ask_once, compare_models
from mixdpo.pairs.rate import rating_name
from mixdpo.pairs.rating_settings import RatingSettings
from mixdpo.training.answers_settings import ANSWERS, WIN_RATE

_START: Final = "start"


@dataclass(frozen=True)
class Comparison:
    """What a judge says of a policy's answers.

    Attributes:
        answers: the policy's, with `preferred` (1, 0.5 or 0 against the start's, or None) among their columns and,
            where the judge grades, `score` and `start_score`.
        win_rate: share of prompts on which they are preferred to the start's, ties half; None without any verdict.
        compared: prompts that it is of.
        unread: verdicts that could not be read.
        failed: verdicts that did not come.
        failure: why there is no verdict at all; None if there are some.
    """

    answers: list[AnsweredPrompt]
    win_rate: Interval | None = None
    compared: int = 0
    unread: int = 0
    failed: int = 0
    failure: str | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of a judge, without the win rate where there is none."""
        found: dict[str, float] = {}
        if self.win_rate is not None:
            low, high = np.clip([self.win_rate.low, self.win_rate.high], 0, 1).tolist()
            found = {WIN_RATE: self.win_rate.estimate, f"{WIN_RATE}_low": low, f"{WIN_RATE}_high": high}
        counts = {"compared": self.compared, "unread": self.unread, "failed": self.failed}
        return found | ({} if self.failure else {ANSWERS + name: float(count) for name, count in counts.items()})


def compare_with_start(
    own: Sequence[AnsweredPrompt], start: Sequence[AnsweredPrompt], prompts: Sequence[Prompt], judge: Judge,
    settings: RatingSettings,
) -> Comparison:  # fmt: skip
    """Let a judge compare; what it does not manage is no reason to end a training run.

    Args:
        own: the policy's answer to each prompt.
        start: the start's, in the same order.
        prompts: the prompts, whose columns a program reads.
        judge: who compares, see `compare_models`.
        settings: how.
    """
    try:
        compared = compare_models(_for_judge(own, prompts), {_START: _for_judge(start, prompts)}, [judge], settings)
    except (InputError, RunError, torch.OutOfMemoryError) as error:
        return Comparison(list(own), failure=" ".join(str(error).split()))
    preferred = _column(compared, PREFERRED + _START)
    known = preferred[~np.isnan(preferred)]
    scores = {name: _column(compared, RATING + name) for name in (NEWEST, _START)}
    columns = {"preferred": preferred, **({} if np.isnan(scores[_START]).all() else {"start_score": scores[_START]})}
    answers = [
        _with_verdict(one, {name: values[place] for name, values in columns.items()}, scores[NEWEST][place],
                      rating_name(judge))
        for place, one in enumerate(own)
    ]  # fmt: skip
    win_rate = mean_interval(known, scale=(0.0, 1.0)) if len(known) else None
    return Comparison(answers, win_rate, len(known), compared.unread, compared.failed)


def try_judge(
    start: Sequence[AnsweredPrompt], prompts: Sequence[Prompt], judge: Judge, settings: RatingSettings
) -> None:
    """Ask a judge about one prompt, so that a wrong URL, key or program ends a run before it begins.

    Raises:
        InputError: the judge cannot be asked.
        RunError: it does not answer.
    """
    whole = [one for one in _for_judge(start, prompts) if one.answers[0].text.strip()]
    texts = {one.answers[0].text: one.answers[0] for one in whole}
    if whole:
        ask_once(replace(whole[0], answers=tuple(texts.values())[:2]), judge, settings)


def _for_judge(answers: Sequence[AnsweredPrompt], prompts: Sequence[Prompt]) -> list[AnsweredPrompt]:
    """Return answers with the columns of their prompts instead of what was measured of them."""
    return [
        replace(one, answers=tuple(replace(answer, columns=prompt.columns) for answer in one.answers))
        for one, prompt in zip(answers, prompts, strict=True)
    ]


def _column(compared: Compared, name: str) -> np.ndarray:
    """Return a column, float64, shape (prompts,), NaN where there is none."""
    return np.array([row.get(name) for row in compared.rows], dtype=np.float64)


def _with_verdict(one: AnsweredPrompt, columns: Mapping[str, float], score: float, judge: str) -> AnsweredPrompt:
    (answer,) = one.answers
    verdict = {name: None if np.isnan(value) else float(value) for name, value in columns.items()}
    ratings = {} if np.isnan(score) else {judge: float(score)}
    judged = replace(answer, score=float(score), ratings=ratings, columns={**answer.columns, **verdict})
    return replace(one, answers=(judged,))
