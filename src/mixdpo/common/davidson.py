"""Bradley-Terry with ties (Davidson 1970, J. Am. Stat. Assoc. 65:317): strengths of players in separate tournaments.

Player i beats j with probability s_i / Z, both are even with probability nu sqrt(s_i s_j) / Z, where s = exp(strength)
and Z = s_i + s_j + nu sqrt(s_i s_j). The tournaments share nu: one judge calls ties in all of them.
Legend: T tournaments with P players each. There is an array for each number of players.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_STEPS: Final = 100
_CLOSE: Final = 1e-10


@dataclass(frozen=True)
class GameCounts:
    """What came of the games in tournaments of one size; shape (T, P, P).

    Attributes:
        wins_TPP: how often the first player beat the second.
        ties_TPP: how often two players were even; symmetric.
    """

    wins_TPP: np.ndarray
    ties_TPP: np.ndarray

    @property
    def games_TPP(self) -> np.ndarray:
        """How often two players met; symmetric."""
        return self.wins_TPP + np.swapaxes(self.wins_TPP, 1, 2) + self.ties_TPP


@dataclass(frozen=True)
class Strengths:
    """What was fitted.

    Attributes:
        strengths: of each size of tournaments, natural log of the odds, with mean 0 over the players of each; shape
            (T, P).
        log_nu: natural log of the weight of ties.
    """

    strengths: list[np.ndarray]
    log_nu: float


def fit_davidson(games: Sequence[GameCounts], deviation: float | None) -> Strengths:
    """Maximise the likelihood of games, times the density of a normal prior, by Newton's method.

    The prior has mean 0 for every strength and for log nu. It keeps the strength of one that won all games finite.

    Args:
        games: of tournaments of each size.
        deviation: of the prior; None for none. Then every tournament has to hold together, by wins in both directions
            or ties, and one of its games has to be a tie: otherwise the optimum is at infinity.
    """
    precision = 0.0 if deviation is None else 1 / deviation**2
    strengths, log_nu = [np.zeros(one.wins_TPP.shape[:2]) for one in games], 0.0
    loss = _loss(games, strengths, log_nu, precision)
    for _ in range(_STEPS):
        steps, step_nu = _newton_step(games, strengths, log_nu, precision)
        size = 1.0
        while True:
            further = [strength - size * step for strength, step in zip(strengths, steps, strict=True)]
            new = _loss(games, further, log_nu - size * step_nu, precision)
            if new <= loss + 1e-12 * abs(loss) or size < _CLOSE:
                break
            size /= 2
        strengths, log_nu, loss = further, log_nu - size * step_nu, new
        if max(abs(step_nu), *(np.abs(step).max(initial=0.0) for step in steps)) < _CLOSE:
            break
    return Strengths(strengths, float(log_nu))


def _newton_step(
    games: Sequence[GameCounts], strengths: Sequence[np.ndarray], log_nu: float, precision: float
) -> tuple[list[np.ndarray], float]:
    """Return the steps of all strengths, and that of log nu.

    All tournaments share only log nu: it is solved for first, with the strengths eliminated.
    """
    solved, slope, curvature = [], precision * log_nu, precision
    for one, strength_TP in zip(games, strengths, strict=True):
        found = _derivatives(one, strength_TP, log_nu)
        gradient_TP = found.gradient_TP + precision * strength_TP
        # Strengths are known up to a constant; the 1 keeps their mean where it starts, at 0.
        hessian_TPP = found.hessian_TPP + precision * np.eye(strength_TP.shape[1]) + 1
        by_gradient_TP, by_mixed_TP = np.moveaxis(
            np.linalg.solve(hessian_TPP, np.stack([gradient_TP, found.mixed_TP], axis=2)), 2, 0
        )
        slope += found.slope - (found.mixed_TP * by_gradient_TP).sum()
        curvature += found.curvature - (found.mixed_TP * by_mixed_TP).sum()
        solved.append((by_gradient_TP, by_mixed_TP))
    step_nu = slope / curvature
    return [by_gradient_TP - by_mixed_TP * step_nu for by_gradient_TP, by_mixed_TP in solved], step_nu


def _probabilities(strength_TP: np.ndarray, log_nu: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log probabilities that the first player wins, and that both are even; shape (T, P, P)."""
    half_TPP = (strength_TP[:, :, None] - strength_TP[:, None, :]) / 2
    norm_TPP = np.logaddexp(np.logaddexp(half_TPP, -half_TPP), log_nu)
    return half_TPP - norm_TPP, log_nu - norm_TPP


def _loss(games: Sequence[GameCounts], strengths: Sequence[np.ndarray], log_nu: float, precision: float) -> float:
    found = precision * log_nu**2 / 2
    for one, strength_TP in zip(games, strengths, strict=True):
        win_TPP, tie_TPP = _probabilities(strength_TP, log_nu)
        found += precision * (strength_TP**2).sum() / 2
        found -= (one.wins_TPP * win_TPP).sum() + (one.ties_TPP * tie_TPP).sum() / 2
    return float(found)


@dataclass(frozen=True)
class _Derivatives:
    """First and second derivatives of the loss without the prior: of the strengths, of log nu, and mixed."""

    gradient_TP: np.ndarray
    slope: float
    hessian_TPP: np.ndarray
    mixed_TP: np.ndarray
    curvature: float


def _derivatives(games: GameCounts, strength_TP: np.ndarray, log_nu: float) -> _Derivatives:
    log_win_TPP, log_tie_TPP = _probabilities(strength_TP, log_nu)
    win_TPP, tie_TPP = np.exp(log_win_TPP), np.exp(log_tie_TPP)
    lost_TPP = np.swapaxes(win_TPP, 1, 2)
    games_TPP = games.games_TPP
    expected_TPP = (win_TPP - lost_TPP) / 2
    found_TPP = (games.wins_TPP - np.swapaxes(games.wins_TPP, 1, 2)) / 2
    gradient_TP = (games_TPP * expected_TPP - found_TPP).sum(axis=2)
    slope = (games_TPP * tie_TPP - games.ties_TPP).sum() / 2
    # The score of a game in half the difference of strengths is 1, -1 or 0, and 1 for a tie in log nu.
    spread_TPP = games_TPP * ((win_TPP + lost_TPP) / 4 - expected_TPP**2)
    hessian_TPP = -spread_TPP
    diagonal = np.arange(strength_TP.shape[1])
    hessian_TPP[:, diagonal, diagonal] = spread_TPP.sum(axis=2) - spread_TPP[:, diagonal, diagonal]
    mixed_TP = -(games_TPP * expected_TPP * tie_TPP).sum(axis=2)
    curvature = (games_TPP * tie_TPP * (1 - tie_TPP)).sum() / 2
    return _Derivatives(gradient_TP, float(slope), hessian_TPP, mixed_TP, float(curvature))
