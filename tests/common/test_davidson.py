"""Bradley-Terry strengths with ties, against published estimates and against a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from mixdpo.common.davidson import GameCounts, fit_davidson

# Davidson (1970), example 2: brands of chocolate pudding i and j, times that i won, that j won, and ties.
PUDDINGS = [
    (1, 2, 19, 22, 16), (1, 3, 16, 19, 12), (2, 3, 19, 19, 10), (1, 4, 18, 23, 13), (2, 4, 23, 19, 9),
    (3, 4, 19, 20, 15), (1, 5, 13, 19, 18), (2, 5, 16, 20, 12), (3, 5, 16, 15, 17), (4, 5, 17, 14, 16),
    (1, 6, 18, 21, 12), (2, 6, 22, 20, 12), (3, 6, 13, 18, 10), (4, 6, 14, 19, 18), (5, 6, 11, 21, 12),
]  # fmt: skip
PUBLISHED = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
"""Worths that the R package PlackettLuce prints for them after seven steps, as many as Davidson took."""


def games_of(rng: np.random.Generator, tournaments: int, players: int) -> GameCounts:
    others = ~np.eye(players, dtype=bool)
    wins, ties = (rng.integers(0, 3, size=(tournaments, players, players)) * others for _ in range(2))
    return GameCounts(wins, np.triu(ties) + np.swapaxes(np.triu(ties), 1, 2))


def penalised_loss(values: np.ndarray, several: list[GameCounts], deviation: float) -> float:
    """The density of the games and of the prior, game by game, as Davidson writes it."""
    log_nu = values[-1]
    found, begin = (values @ values) / (2 * deviation**2), 0
    for games in several:
        count, players, _ = games.wins_TPP.shape
        strengths = values[begin : begin + count * players].reshape(count, players)
        begin += count * players
        for tournament, i, j in np.argwhere(games.wins_TPP + games.ties_TPP):
            s_i, s_j = np.exp(strengths[tournament, [i, j]])
            tie = np.exp(log_nu) * np.sqrt(s_i * s_j)
            found -= games.wins_TPP[tournament, i, j] * np.log(s_i / (s_i + s_j + tie))
            found -= games.ties_TPP[tournament, i, j] / 2 * np.log(tie / (s_i + s_j + tie))
    return float(found)


def test_strengths_are_davidsons_own_without_a_prior() -> None:
    wins, ties = np.zeros((1, 6, 6)), np.zeros((1, 6, 6))
    for i, j, won, lost, even in PUDDINGS:
        wins[0, i - 1, j - 1], wins[0, j - 1, i - 1] = won, lost
        ties[0, [i - 1, j - 1], [j - 1, i - 1]] = even
    fitted = fit_davidson([GameCounts(wins, ties)], None)
    worth = np.exp(fitted.strengths[0][0])
    assert worth / worth.sum() == pytest.approx(PUBLISHED, abs=1e-4)
    assert np.exp(fitted.log_nu) == pytest.approx(0.7468147, abs=2e-4)


def test_strengths_are_the_optimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    several = [games_of(rng, tournaments, players) for tournaments, players in ((2, 2), (3, 4))]
    fitted = fit_davidson(several, 1.5)
    best = minimize(penalised_loss, np.zeros(2 * 2 + 3 * 4 + 1), args=(several, 1.5), tol=1e-12)
    assert np.concatenate([one.ravel() for one in fitted.strengths]) == pytest.approx(best.x[:-1], abs=1e-5)
    assert fitted.log_nu == pytest.approx(best.x[-1], abs=1e-5)
    assert np.concatenate([one.sum(axis=1) for one in fitted.strengths]) == pytest.approx(np.zeros(5), abs=1e-9)


@pytest.mark.parametrize("kind", ["wins", "ties", "none"])
def test_records_without_an_optimum_of_their_own_are_finite_with_a_prior(kind: str) -> None:
    wins, ties = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    if kind == "wins":  # the first beats all, and nobody the last
        wins[0] = np.triu(np.full((3, 3), 2), 1)
    if kind == "ties":
        ties[0] = 2 - 2 * np.eye(3)
    fitted = fit_davidson([GameCounts(wins, ties), GameCounts(np.zeros((2, 1, 1)), np.zeros((2, 1, 1)))], 2.0)
    first, alone = fitted.strengths
    assert np.isfinite(first).all()
    assert (np.diff(first[0]) < 0).all() == (kind == "wins")
    assert (alone == 0).all()
    assert np.sign(fitted.log_nu) == {"wins": -1, "ties": 1, "none": 0}[kind]
