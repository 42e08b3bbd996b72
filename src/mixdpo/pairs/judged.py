"""What is judged of a file of answers, and what one judge says of it, whichever way it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from mixdpo.generation.answer_files import plain_text
from mixdpo.judges.judge import Chat, Judge, Verdict, verdict_record
from mixdpo.judges.language_model import LanguageJudge
from mixdpo.judges.prompt import JudgePrompt
from mixdpo.pairs.answered import Answer, AnsweredPrompt
from mixdpo.pairs.rating_settings import RatingSettings

RAW_RATING: Final = "raw_rating/"
"""Columns of ratings as a judge gave them, where those of the judge's name are turned round or standardised."""
WIN_RATE: Final = "win_rate"


def chat_text(chat: Chat) -> str:
    """Return a chat as one text: of a single user's message what it says, else every message with its role."""
    return plain_text([{"role": role, "content": content} for role, content in chat])


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt and those of its answers that are judged: not the empty ones, in which there is nothing to judge."""

    chat: Chat
    answers: tuple[Answer, ...]

    @cached_property
    def question(self) -> str:
        """The chat as one text; of several messages with the roles."""
        return chat_text(self.chat)

    @cached_property
    def texts(self) -> list[str]:
        """The different texts among the answers, in their order."""
        return list(dict.fromkeys(answer.text for answer in self.answers))

    @cached_property
    def columns(self) -> dict[str, Any]:
        """What the file says alike of all answers, such as a reference."""
        first, *others = map(own_columns, self.answers)
        return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


@dataclass(frozen=True)
class Judged:
    """The ratings of one judge.

    Attributes:
        ratings: of all answers that are judged, prompt by prompt; NaN for those that it gave none.
        record: see `judge_record`, and `off_scale` beside it.
        unit: what the ratings are in: a scale, or log-odds of a game; None where nothing says it.
        win_rates: of a judge that compares answers, the share of its games that each won, ties half; NaN without any.
    """

    ratings: np.ndarray
    record: dict[str, Any]
    unit: str | None
    win_rates: np.ndarray | None = None


def judge_record(
    judge: Judge, verdicts: Sequence[Verdict], judge_prompt: JudgePrompt | None, settings: RatingSettings
) -> dict[str, Any]:
    """Return who judged, how it was asked and what came back; see `verdict_record`."""
    asked: dict[str, Any] = {}
    if judge_prompt is not None:
        asked = {"judge_prompt": judge_prompt.fingerprint(), "max_tokens": settings.max_tokens, "temperature": 0.0}
    if isinstance(judge, LanguageJudge) and judge.temperature is not None:
        asked["temperature"] = judge.temperature
    return {**verdict_record(verdicts, judge.name), **judge.record(), "mode": settings.mode, **asked}


def judged_prompts(prompts: Sequence[AnsweredPrompt]) -> list[JudgedPrompt]:
    """Return what is judged of prompts with their answers."""
    return [JudgedPrompt(one.chat, tuple(filter(is_judged, one.answers))) for one in prompts]


def is_judged(answer: Answer) -> bool:
    """Whether an answer is more than white space."""
    return bool(answer.text.strip())


def own_columns(answer: Answer) -> dict[str, Any]:
    """Return what a file says of an answer without what earlier ratings left there."""
    return {
        name: value for name, value in answer.columns.items() if name != WIN_RATE and not name.startswith(RAW_RATING)
    }
