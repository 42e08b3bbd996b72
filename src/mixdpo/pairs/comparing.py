"""The answers to a prompt compared two at a time, each pair in both orders, and turned into strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from mixdpo.common.davidson import fit_davidson
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
    rng = np.random.default_rng(settings.seed)
    return [
        Match(number, first, second)
        for number, prompt in enumerate(prompts)
        for first, second in _schedule(len(prompt.texts), settings.opponents, rng)
    ]


def _schedule(players: int, opponents: int | None, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return pairs of players, each with `opponents` others at most.

    Players sit around a table in an order that is drawn, and each meets the nearest on both sides; an odd one more is
    the player opposite. So all are connected.
    """
    if opponents is None or opponents >= players - 1:
        return list(combinations(range(players), 2))
    seats = rng.permutation(players)
    distances = [*range(1, opponents // 2 + 1)]
    met = [(seat, (seat + distance) % players) for distance in distances for seat in range(players)]
    if opponents % 2 and players % 2 == 0:
        met += [(seat, seat + players // 2) for seat in range(players // 2)]
    return sorted((min(a, b), max(a, b)) for a, b in ((int(seats[one]), int(seats[two])) for one, two in met))


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
    in_last_line = judge_prompt is not None and judge_prompt.asks_for_last_line()
    return judge.judge(items, lambda reply: parse_game(reply.text, in_last_line), progress=progress)


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
    strength_TP, rate_TP, log_nu = _strengths(prompts, played, games)
    ratings, win_rates = [], []
    for number, prompt in enumerate(prompts):
        place = {text: column for column, text in enumerate(prompt.texts)}
        ratings += [strength_TP[number, place[answer.text]] for answer in prompt.answers]
        win_rates += [rate_TP[number, place[answer.text]] for answer in prompt.answers]
    record: dict[str, Any] = {
        **judge_record(judge, verdicts, judge_prompt, settings),
        "off_scale": 0,
        "matches": len(played),
        "position_bias": position_record(games),
        "tie_weight": float(np.exp(log_nu)),
        "prior_deviation": PRIOR_DEVIATION,
    }
    return Judged(np.array(ratings), record, "log-odds", np.array(win_rates))


def _strengths(
    prompts: Sequence[JudgedPrompt], played: Sequence[Match], games: Sequence[Games]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return strengths and win rates by prompt and text, NaN where no game was read; and the log weight of ties."""
    shape = (len(prompts), max(len(prompt.answers) for prompt in prompts))
    wins_TPP, ties_TPP = np.zeros((*shape, shape[1])), np.zeros((*shape, shape[1]))
    for match, (forth, back) in zip(played, games, strict=True):
        for label, a, b in ((forth, match.first, match.second), (back, match.second, match.first)):
            if (found := score_of_a(label)) is None:
                continue
            if found[0] == 0.5:
                ties_TPP[match.prompt, [a, b], [b, a]] += 1
            else:
                winner, loser = (a, b) if found[0] == 1 else (b, a)
                wins_TPP[match.prompt, winner, loser] += 1
    lost_TPP = np.swapaxes(wins_TPP, 1, 2)
    games_TP = (wins_TPP + lost_TPP + ties_TPP).sum(axis=2)
    fitted = fit_davidson(wins_TPP, ties_TPP, games_TP > 0, PRIOR_DEVIATION)
    won_TP = (wins_TPP + ties_TPP / 2).sum(axis=2)
    rate_TP = np.divide(won_TP, games_TP, out=np.full(shape, np.nan), where=games_TP > 0)
    strength_TP = np.round(fitted.strength, _DIGITS)
    return np.where(games_TP > 0, strength_TP, np.nan), rate_TP, fitted.log_nu
