"""The answers to a prompt compared two at a time, each pair in both orders, and turned into strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from mixdpo.common.davidson import GameCounts, fit_davidson
from mixdpo.common.files import digest
from mixdpo.generation.chat_model import Progress
from mixdpo.judges.games import Games, game_request, parse_game, position_record
from mixdpo.judges.judge import Judge, JudgeItem, Verdict, score_of_a
from mixdpo.judges.prompt import JudgePrompt
from mixdpo.pairs.judged import Judged, JudgedPrompt, judge_record
from mixdpo.pairs.rating_settings import RatingSettings

PRIOR_DEVIATION: Final = 2.0
"""Of the normal prior of strengths, in log-odds: 95 % of differences lie between -5.5 and 5.5 before any game."""
_DIGITS: Final = 9
"""Of strengths: two answers with like records are a tie, and no margin of rounding errors."""


@dataclass(frozen=True)
class Match:
    """Two different texts among the answers to a prompt, by their places among its different texts."""

    prompt: int
    first: int
    second: int


def matches(prompts: Sequence[JudgedPrompt], settings: RatingSettings) -> list[Match]:
    """Return who meets whom: all different texts of a prompt, or each as many others as the settings allow.

    A game of a text against itself says nothing.
    """
    return [
        Match(number, first, second)
        for number, prompt in enumerate(prompts)
        for first, second in _schedule(_seats(prompt, settings.seed), settings.opponents)
    ]


def _seats(prompt: JudgedPrompt, seed: int) -> list[int]:
    """Return the places of a prompt's texts in an order that is drawn, and does not depend on other prompts."""
    drawn = [digest([str(seed), prompt.question, text]) for text in prompt.texts]
    return sorted(range(len(drawn)), key=drawn.__getitem__)


def _schedule(seats: Sequence[int], opponents: int | None) -> list[tuple[int, int]]:
    """Return pairs of players, each with `opponents` others at most.

    Players sit around a table, and each meets the nearest on both sides; an odd one more is the player opposite. So
    all are connected.
    """
    players = len(seats)
    if opponents is None or opponents >= players - 1:
        return list(combinations(range(players), 2))
    met = [(at, (at + distance) % players) for distance in range(1, opponents // 2 + 1) for at in range(players)]
    if opponents % 2 and players % 2 == 0:
        met += [(at, at + players // 2) for at in range(players // 2)]
    return sorted((min(seats[a], seats[b]), max(seats[a], seats[b])) for a, b in met)


def game_items(
    prompts: Sequence[JudgedPrompt], judge_prompt: JudgePrompt | None, settings: RatingSettings
) -> list[JudgeItem]:
    """Return two games of each match, with swapped positions.

    Raises:
        InputError: the judge prompt lacks a place.
    """
    items = []
    for match in matches(prompts, settings):
        prompt = prompts[match.prompt]
        texts = prompt.texts
        for answers in ((texts[match.first], texts[match.second]), (texts[match.second], texts[match.first])):
            request = None
            if judge_prompt is not None:
                request = game_request(judge_prompt, prompt.question, answers, settings.max_tokens)
            items.append(JudgeItem(prompt.chat, answers, request, prompt.columns))
    return items


def play(
    judge: Judge, prompts: Sequence[JudgedPrompt], judge_prompt: JudgePrompt | None, settings: RatingSettings,
    progress: Progress | None = None,
) -> list[Verdict]:  # fmt: skip
    """Return the verdicts on both games of every match, one after the other.

    Raises:
        InputError: see `game_items`.
    """
    items = game_items(prompts, judge_prompt, settings)
    return judge.judge(items, lambda reply: parse_game(reply.text), progress=progress)


def compare_answers(
    judge: Judge, prompts: Sequence[JudgedPrompt], judge_prompt: JudgePrompt | None, settings: RatingSettings,
    progress: Progress | None = None,
) -> Judged:  # fmt: skip
    """Let a judge compare the answers to each prompt; their ratings are Bradley-Terry strengths in log-odds.

    Strengths have mean 0 over the different texts of a prompt. A prompt whose answers are all one text says nothing of
    them, and they have no rating.

    Raises:
        InputError: see `game_items`.
    """
    verdicts = play(judge, prompts, judge_prompt, settings, progress)
    labels = [verdict.label for verdict in verdicts]
    games: list[Games] = list(zip(labels[::2], labels[1::2], strict=True))
    played = matches(prompts, settings)
    found, log_nu = _strengths(prompts, played, games)
    at = [
        (number, prompt.texts.index(answer.text)) for number, prompt in enumerate(prompts) for answer in prompt.answers
    ]
    ratings, win_rates = (np.array([found[number][side][place] for number, place in at]) for side in range(2))
    record: dict[str, Any] = {
        **judge_record(judge, verdicts, judge_prompt, settings),
        "off_scale": 0,
        "matches": len(played),
        "position_bias": position_record(games),
        "tie_weight": float(np.exp(log_nu)),
        "prior_deviation": PRIOR_DEVIATION,
    }
    return Judged(ratings, record, "log-odds", win_rates)


def _strengths(
    prompts: Sequence[JudgedPrompt], played: Sequence[Match], games: Sequence[Games]
) -> tuple[list[np.ndarray], float]:
    """Return strengths and win rates of each prompt's texts, shape (2, texts), NaN where no game was read.

    And the log weight of ties.
    """
    sizes = np.array([len(prompt.texts) for prompt in prompts])
    won = [np.zeros((size, size)) for size in sizes]
    tied = [np.zeros((size, size)) for size in sizes]
    for match, (forth, back) in zip(played, games, strict=True):
        for label, a, b in ((forth, match.first, match.second), (back, match.second, match.first)):
            if (score := score_of_a(label)) is None:
                continue
            if score[0] == 0.5:
                tied[match.prompt][[a, b], [b, a]] += 1
            else:
                won[match.prompt][(a, b) if score[0] == 1 else (b, a)] += 1
    of_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    counted = [
        GameCounts(np.stack([won[one] for one in own]), np.stack([tied[one] for one in own])) for own in of_size
    ]
    fitted = fit_davidson(counted, PRIOR_DEVIATION)
    found = [np.empty(0)] * len(prompts)
    for own, counts, strength_TP in zip(of_size, counted, fitted.strengths, strict=True):
        games_TP = counts.games_TPP.sum(axis=2)
        rate_TP = np.divide(
            (counts.wins_TPP + counts.ties_TPP / 2).sum(axis=2), games_TP,
            out=np.full(games_TP.shape, np.nan), where=games_TP > 0,
        )  # fmt: skip
        rounded_TP = np.where(games_TP > 0, np.round(strength_TP, _DIGITS), np.nan)
        for number, strengths, rates in zip(own, rounded_TP, rate_TP, strict=True):
            found[number] = np.stack([strengths, rates])
    return found, fitted.log_nu
