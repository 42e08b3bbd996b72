"""Bradley-Terry with ties (Davidson 1970, J. Am. Stat. Assoc. 65:317): strengths of players in separate tournaments.

Player i beats j with probability s_i / Z, both are even with probability nu sqrt(s_i s_j) / Z, where s = exp(strength)
and Z = s_i + s_j + nu sqrt(s_i s_j). The tournaments share nu: one judge calls ties in all of them.
Legend: T tournaments, P players of the largest one; smaller ones are filled up with players that never play.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEPS = 100
_CLOSE = 1e-10


@dataclass(frozen=True)
class Strengths:
    """What was fitted.

    Attributes:
        strength: natural log of the odds, mean 0 over the players of each tournament; shape (T, P), 0 where there is
            no player.
        log_nu: natural log of the weight of ties.
    """

    strength: np.ndarray
    log_nu: float


def fit_davidson(
    wins_TPP: np.ndarray, ties_TPP: np.ndarray, player_TP: np.ndarray, deviation: float | None
) -> Strengths:
    """Maximise the likelihood of games, times the density of a normal prior, by Newton's method.

    The prior has mean 0 for every strength and for log nu. It keeps the strength of one that won all games finite.

    Args:
        wins_TPP: how often the first player beat the second.
        ties_TPP: how often two players were even; symmetric.
        player_TP: whether there is such a player.
        deviation: of the prior; None for none. Then every tournament has to hold together, by wins in both directions
            or ties, and one of its games has to be a tie: otherwise the optimum is at infinity.
    """
    precision = 0.0 if deviation is None else 1 / deviation**2
    strength_TP, log_nu = np.zeros(player_TP.shape), 0.0
    # Strengths are known up to a constant; this term keeps their mean where it starts, at 0.
    mean_TPP = player_TP[:, :, None] * player_TP[:, None, :] + np.eye(player_TP.shape[1]) * ~player_TP[:, :, None]
    value = _loss(strength_TP, log_nu, wins_TPP, ties_TPP, precision)
    for _ in range(_STEPS):
        gradient_TP, slope, hessian_TPP, mixed_TP, curvature = _derivatives(strength_TP, log_nu, wins_TPP, ties_TPP)
        gradient_TP, slope = gradient_TP + precision * strength_TP, slope + precision * log_nu
        hessian_TPP = hessian_TPP + precision * np.eye(player_TP.shape[1]) + mean_TPP
        # All tournaments share only log nu: it is solved for first, with the strengths eliminated.
        both_TP2 = np.linalg.solve(hessian_TPP, np.stack([gradient_TP, mixed_TP], axis=2))
        step_nu = (slope - (mixed_TP * both_TP2[..., 0]).sum()) / (
            curvature + precision - (mixed_TP * both_TP2[..., 1]).sum()
        )
        step_TP = both_TP2[..., 0] - both_TP2[..., 1] * step_nu
        size = 1.0
        while (new := _loss(strength_TP - size * step_TP, log_nu - size * step_nu, wins_TPP, ties_TPP, precision)) > (
            value + 1e-12 * abs(value)
        ) and size > _CLOSE:
            size /= 2
        strength_TP, log_nu, value = strength_TP - size * step_TP, log_nu - size * step_nu, new
        if max(np.abs(step_TP).max(initial=0.0), abs(step_nu)) < _CLOSE:
            break
    return Strengths(strength_TP, float(log_nu))


def _probabilities(strength_TP: np.ndarray, log_nu: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log probabilities that the first player wins, and that both are even; shape (T, P, P)."""
    half_TPP = (strength_TP[:, :, None] - strength_TP[:, None, :]) / 2
    norm_TPP = np.logaddexp(np.logaddexp(half_TPP, -half_TPP), log_nu)
    return half_TPP - norm_TPP, log_nu - norm_TPP


def _loss(
    strength_TP: np.ndarray, log_nu: float, wins_TPP: np.ndarray, ties_TPP: np.ndarray, precision: float
) -> float:
    win_TPP, tie_TPP = _probabilities(strength_TP, log_nu)
    games = (wins_TPP * win_TPP).sum() + (ties_TPP * tie_TPP).sum() / 2
    return float(precision * ((strength_TP**2).sum() + log_nu**2) / 2 - games)


def _derivatives(
    strength_TP: np.ndarray, log_nu: float, wins_TPP: np.ndarray, ties_TPP: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, float]:
    """Return first and second derivatives of the loss without the prior: of the strengths, of log nu, and mixed."""
    log_win_TPP, log_tie_TPP = _probabilities(strength_TP, log_nu)
    win_TPP, tie_TPP = np.exp(log_win_TPP), np.exp(log_tie_TPP)
    lost_TPP = np.swapaxes(win_TPP, 1, 2)
    games_TPP = wins_TPP + np.swapaxes(wins_TPP, 1, 2) + ties_TPP
    expected_TPP = (win_TPP - lost_TPP) / 2
    found_TPP = (wins_TPP - np.swapaxes(wins_TPP, 1, 2)) / 2
    gradient_TP = (games_TPP * expected_TPP - found_TPP).sum(axis=2)
    slope = ((games_TPP * tie_TPP) - ties_TPP).sum() / 2
    # The score of a game in half the difference of strengths is 1, -1 or 0, and 1 for a tie in log nu.
    spread_TPP = games_TPP * ((win_TPP + lost_TPP) / 4 - expected_TPP**2)
    hessian_TPP = -spread_TPP
    diagonal = np.arange(strength_TP.shape[1])
    hessian_TPP[:, diagonal, diagonal] = spread_TPP.sum(axis=2) - spread_TPP[:, diagonal, diagonal]
    mixed_TP = -(games_TPP * expected_TPP * tie_TPP).sum(axis=2)
    curvature = (games_TPP * tie_TPP * (1 - tie_TPP)).sum() / 2
    return gradient_TP, float(slope), hessian_TPP, mixed_TP, float(curvature)
