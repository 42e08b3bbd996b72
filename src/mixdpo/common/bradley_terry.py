"""Bradley-Terry models in which every battle is one of a model against a common baseline.

Because every battle contains the baseline, the maximum-likelihood win rate of a model is the mean of its outcomes, and
only the control of other features needs a fit. Legend: N battles, M models (without the baseline), K features.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from mixdpo.common.errors import InputError

ELO_SCALE = 400
"""Elo points of a factor of ten in the odds."""
_ALMOST = 1e-9
"""Nearest that a win rate comes to 0 or 1, where the Elo rating would be infinite."""


def elo_of(win_rate: np.ndarray) -> np.ndarray:
    """Return ratings against a baseline at 0, for win rates between 0 and 1."""
    bounded = np.clip(win_rate, _ALMOST, 1 - _ALMOST)
    return ELO_SCALE * np.log10(bounded / (1 - bounded))


def win_rate_of(elo: np.ndarray) -> np.ndarray:
    """Return the win rates (0 to 1) that belong to ratings against a baseline at 0."""
    return expit(np.asarray(elo) * np.log(10) / ELO_SCALE)


def pooled_bootstrap(model_N: np.ndarray, outcome_N: np.ndarray, models: int, rounds: int, seed: int) -> np.ndarray:
    """Resample all battles together, and return the win rate of each model in each round, (rounds, M).

    The draws are those of `pandas.DataFrame.sample(frac=1, replace=True)` after `numpy.random.seed(seed)`, which the
    published intervals were made with. A model without battles in a round has NaN there.
    """
    random = np.random.RandomState(seed)
    rates = np.full((rounds, models), np.nan)
    for one in rates:
        drawn = random.choice(len(model_N), size=len(model_N), replace=True)
        battles = np.bincount(model_N[drawn], minlength=models)
        won = np.bincount(model_N[drawn], weights=outcome_N[drawn], minlength=models)
        np.divide(won, battles, out=one, where=battles > 0)
    return rates


def bootstrap_by_model(model_N: np.ndarray, outcome_N: np.ndarray, models: int, rounds: int, seed: int) -> np.ndarray:
    """Resample each model's battles on their own, models in ascending order; otherwise as `pooled_bootstrap`."""
    random = np.random.RandomState(seed)
    own = [outcome_N[model_N == model] for model in range(models)]
    rates = np.full((rounds, models), np.nan)
    for one in rates:
        for model, outcomes in enumerate(own):
            if len(outcomes):
                one[model] = outcomes[random.choice(len(outcomes), size=len(outcomes), replace=True)].mean()
    return rates


def fit_logistic(features_NK: np.ndarray, outcome_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Minimise sum(weight * log loss of soft outcomes) by Newton's method; return the coefficients, (K,).

    Where the data do not determine a coefficient, the step of least norm is taken.
    """
    coefficients_K = np.zeros(features_NK.shape[1])
    for _ in range(100):
        probability_N = expit(features_NK @ coefficients_K)
        gradient_K = features_NK.T @ (weight_N * (probability_N - outcome_N))
        curvature_N = weight_N * probability_N * (1 - probability_N)
        hessian_KK = features_NK.T @ (features_NK * curvature_N[:, None])
        step_K = np.linalg.lstsq(hessian_KK, gradient_K, rcond=1e-12)[0]
        # A separable model has no optimum; a bounded step lets it drift to "almost always" instead of overflowing.
        coefficients_K = coefficients_K - np.clip(step_K, -5, 5)
        if np.abs(step_K).max() < 1e-10:
            break
    return coefficients_K


def fit_penalised(features_NK: np.ndarray, outcome_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Minimise sum(weight * log loss of soft outcomes) + |coefficients|^2 / 2 as scikit-learn does by default.

    Its solver stops early, within 0.05 points of the optimum's win rates; published numbers have stopped there too.

    Raises:
        InputError: every battle ended the same way.
    """
    from sklearn.linear_model import LogisticRegression

    won_N, lost_N = weight_N * outcome_N, weight_N * (1 - outcome_N)
    features = np.vstack([features_NK[won_N > 0], features_NK[lost_N > 0]])
    outcomes = np.repeat([1, 0], [np.count_nonzero(won_N), np.count_nonzero(lost_N)])
    weights = np.concatenate([won_N[won_N > 0], lost_N[lost_N > 0]])
    if outcomes.min() == outcomes.max():
        raise InputError("every battle ended the same way, so there is no effect of style to fit")
    fitted = LogisticRegression(fit_intercept=False).fit(features, outcomes, sample_weight=weights)
    return np.asarray(fitted.coef_[0], dtype=np.float64)
