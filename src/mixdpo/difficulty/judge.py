"""The judge metric: which answer judges prefer, each pair shown in both orders."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mixdpo.common.errors import InputError, RunError
from mixdpo.common.processes import processes, started_processes
from mixdpo.common.settings import check_choice, check_ranges
from mixdpo.judges.judge_settings import JUDGES_HELP, JudgesGiven, judges_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from mixdpo.generation.chat_model import Completion
    from mixdpo.judges.judge import Judge, Verdict
    from mixdpo.pairs.judged import JudgedPrompt

_log = logging.getLogger(__name__)

Unread = Literal["error", "tie"]


@dataclass(frozen=True, kw_only=True)
class JudgeMetricSettings:
    """Settings of the metric `judge`.

    Raises:
        InputError: a value is out of its range.
    """

    judge: JudgesGiven = field(default=None, metadata={"help": f"who compares the answers: {JUDGES_HELP}"})
    judge_prompt: Path | None = field(
        default=None, metadata={"help": "file with what language models are asked; null: mixdpo's own"}
    )
    max_tokens: int = field(default=1024, metadata={"help": "longest judgement, in tokens", "at_least": 1})
    unread: Unread = field(
        default="error",
        metadata={"help": "what a verdict does that cannot be read: error, or the pair is a tie of that judge"},
    )

    def __post_init__(self) -> None:
        check_ranges(self, "judge setting ")
        check_choice("score.judge.unread", self.unread, Unread)


def judge_margin(dataset: Dataset, settings: JudgeMetricSettings) -> np.ndarray:
    """Return how much judges prefer the chosen answer to the rejected one, -1 to 1; float64, shape (N,).

    Of a judge it is the mean of both orders: 1 prefers the chosen answer in both, and a pair whose answers it prefers
    each in one order is a tie, 0. Of several judges it is their mean. Judges run on the first process alone.

    Raises:
        InputError: no judge is named, there is none of that name, or its prompt lacks a placeholder.
        RunError: a verdict cannot be read and is to be no tie, or more than a fifth of them cannot.
    """
    number, count = started_processes()
    margins = _mean_margin(dataset, settings) if number == 0 else np.empty(0)
    if count == 1:
        return margins
    from accelerate.utils import broadcast_object_list

    processes()
    (shared,) = broadcast_object_list([margins])
    return np.asarray(shared)


def preferences(verdicts: Sequence[Verdict]) -> np.ndarray:
    """Return how much the chosen answer is preferred in each game, -1 to 1, NaN where unread; float64, shape (N, 2).

    Args:
        verdicts: two for each pair; in the first game the chosen answer is A, in the second the rejected one.
    """
    scores_N2 = np.array([np.nan if one.score is None else one.score for one in verdicts]).reshape(-1, 2)
    return np.asarray((2 * scores_N2 - 1) * [1, -1])


def margins_of_games(games_N2: np.ndarray) -> np.ndarray:
    """Return the mean of both games of each pair, 0 where they prefer different answers; float64, shape (N,)."""
    return np.asarray(np.where(_is_inconsistent(games_N2), 0.0, games_N2.mean(axis=1)))


def _mean_margin(dataset: Dataset, settings: JudgeMetricSettings) -> np.ndarray:
    from mixdpo.judges.find_judge import find_judge
    from mixdpo.pairs.answered import Answer
    from mixdpo.pairs.judged import JudgedPrompt
    from mixdpo.pairs.spoken import spoken_pairs

    judges = [find_judge(one) for one in judges_named(settings.judge, "score.judge.judge")]
    if settings.judge_prompt is not None and not any(judge.in_words for judge in judges):
        raise InputError(
            f"the judge {judges[0].name} is asked nothing in words", hint="leave out score.judge.judge_prompt"
        )
    pairs = list(spoken_pairs(dataset))
    if tools := sum(pair.has_tools for pair in pairs):
        _log.warning(f"judges do not see the tools that the prompts of {tools:,} pairs offer")
    prompts = [
        JudgedPrompt(pair.chat, tuple(Answer(text, "", columns=pair.columns) for text in (pair.chosen, pair.rejected)))
        for pair in pairs
    ]
    of_judges = []
    for judge in judges:
        games_N2, replies = _games(prompts, judge, settings)
        _check_read(dataset, games_N2, replies, judge, settings)
        margins = margins_of_games(games_N2)
        _log.info(_counts(games_N2, margins, judge.name))
        of_judges.append(np.where(np.isnan(margins), 0.0, margins))
    if len(judges) > 1:
        signs = np.sign(of_judges)
        differ = int(((signs > 0).any(axis=0) & (signs < 0).any(axis=0)).sum())
        _log.info(f"{len(judges)} judges prefer different answers in {differ:,} of {len(pairs):,} pairs")
    return np.asarray(np.mean(of_judges, axis=0))


def _games(
    prompts: Sequence[JudgedPrompt], judge: Judge, settings: JudgeMetricSettings
) -> tuple[np.ndarray, list[Completion]]:
    """Return `preferences` of all pairs, 0 of answers that say the same, and the replies to what could not be read."""
    from mixdpo.common.progress import pairs_bar
    from mixdpo.pairs.comparing import matches, play
    from mixdpo.pairs.rate import judge_prompt_of
    from mixdpo.pairs.rating_settings import RatingSettings

    how = RatingSettings(mode="pairwise", judge_prompt=settings.judge_prompt, max_tokens=settings.max_tokens)
    verdicts = play(judge, prompts, judge_prompt_of(judge, how), how, pairs_bar(f"games of {judge.name}", "verdicts"))
    games_N2 = np.zeros((len(prompts), 2))
    games_N2[[match.prompt for match in matches(prompts, how)]] = preferences(verdicts)
    return games_N2, [one.reply for one in verdicts if one.score is None]


def _check_read(
    dataset: Dataset, games_N2: np.ndarray, unread: Sequence[Completion], judge: Judge, settings: JudgeMetricSettings
) -> None:
    """Raise `RunError` where verdicts that cannot be read are not to be ties, or are too many for that."""
    from mixdpo.data.arrays import place_of
    from mixdpo.pairs.rate import MOST_UNREAD

    too_many = len(unread) > MOST_UNREAD * games_N2.size
    if not unread or (settings.unread == "tie" and not too_many):
        return
    rows = np.flatnonzero(np.isnan(games_N2).any(axis=1))
    first = unread[0]
    what_to_do = "give the same command again, which asks only for these"
    if not first.failure:
        what_to_do = (
            "let score.judge.judge_prompt ask for a last line with nothing but [[A]], [[B]] or [[C]], raise "
            "score.judge.max_tokens, or take another judge"
            if judge.in_words
            else "let the program write A>B, A=B or B>A, a line for each item"
        )
    if not too_many:
        what_to_do += "; or set score.judge.unread to tie, which makes these pairs ties"
    raise RunError(
        f"{len(unread):,} of {games_N2.size:,} verdicts of {judge.name} are missing or cannot be read, in "
        f"{len(rows):,} pairs, first in row {place_of(dataset, int(rows[0]))['row']}: "
        f"{first.failure or repr(first.text.strip()[:80])}; {what_to_do}"
    )


def _counts(games_N2: np.ndarray, margins: np.ndarray, name: str) -> str:
    """Say what a judge preferred, how often the order decided, and for which place."""
    chosen, rejected, ties, unread = (
        f"{int(found.sum()):,}" for found in (margins > 0, margins < 0, margins == 0, np.isnan(margins))
    )
    turned = _is_inconsistent(games_N2)
    first = int((games_N2[turned, 0] > 0).sum())
    return (
        f"judge {name}: of {len(margins):,} pairs it prefers the chosen answer in {chosen} and the rejected one in "
        f"{rejected}; {ties} are ties, in {int(turned.sum()):,} of which the order decided ({first:,} for the answer "
        f"shown first); {unread} are unread"
    )


def _is_inconsistent(games_N2: np.ndarray) -> np.ndarray:
    return np.asarray(games_N2.prod(axis=1) < 0)
