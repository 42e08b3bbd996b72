"""Length-controlled win rates: the logistic model of AlpacaEval 2 (arXiv 2404.04475, `length_controlled_v1`).

For the row i of a model that is judged against a baseline,

    logit P(model preferred) = w_length tanh(d_i) + w_difficulty g_i + w_model,

with d_i = (length of the baseline's answer - length of the model's) / standard deviation of that difference, and
g_i the known difficulty of the instruction. The win rate of answers of equal length is the mean of that probability
with d_i = 0. To keep w_length near the baseline's own, the fit also sees the judgements of two variants of the
baseline that were told to be verbose and to be concise (the "gamed" rows), with little weight and without w_model.

Lengths are in characters; arrays of one value per row are float64.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, log_expit

from mixdpo.common.errors import InputError
from mixdpo.common.table_files import read_table

GAMED_WEIGHT = 0.2 / 2
"""Weight of a gamed row, of which there are two for each instruction; a row of the model has weight 1."""

C_GRID = np.logspace(-4, 4, 10)
"""Inverse strengths of the L1 penalty that cross-validation chooses from: scikit-learn's default grid."""

FOLDS = 5
SOLVER_SEED = 123
PUBLISHED_STOP = {"tol": 1e-4, "max_iter": 100}
"""liblinear visits the rows in random order and stops early, so seed and stop are part of the published definition:
they are worth up to 0.016 points of a win rate."""
OPTIMUM = {"tol": 1e-8, "max_iter": 1000}


@dataclass(frozen=True)
class GamedRows:
    """Judgements of the verbose and the concise baseline, two rows for each instruction."""

    preference: np.ndarray
    """Probability that the gamed answer is preferred to the plain one."""
    std_delta_len: np.ndarray
    """(length of the plain answer - length of the gamed one) / standard deviation of that difference."""
    difficulty: np.ndarray


@dataclass(frozen=True)
class LengthControl:
    """What length control needs besides the verdicts: difficulties by instruction, and the gamed rows."""

    difficulty: np.ndarray
    gamed: GamedRows


def read_length_control(gamed: str | Path, difficulty: str | Path) -> LengthControl:
    """Read the two files of length control.

    Raises:
        InputError: a file lacks a column or an instruction.
    """
    rows, known = read_table(gamed), read_table(difficulty)
    # The published file names only one of its two columns.
    index = known.integers("index" if "index" in known else next(iter(known.columns)))
    values = known.numbers("instruction_difficulty")
    by_index = np.full(max(index.max() + 1, 1), np.nan)
    if index.min() < 0:
        raise InputError("an index is below 0", file=known.file, column="index")
    by_index[index] = values
    if not np.isfinite(by_index).all():
        missing = int(np.flatnonzero(~np.isfinite(by_index))[0])
        raise InputError(f"no difficulty for instruction {missing}", file=known.file)
    return LengthControl(
        by_index,
        GamedRows(rows.numbers("preference"), rows.numbers("std_delta_len"), rows.numbers("instruction_difficulty")),
    )


@dataclass(frozen=True)
class LengthControlled:
    """A fitted model and the win rates it predicts at equal length."""

    weights: tuple[float, float, float]
    """Of tanh(length difference), difficulty, and the model itself."""
    C: float
    predictions: np.ndarray
    """Probability of every row that the model's answer is preferred at equal length."""

    @property
    def win_rate(self) -> float:
        """Mean prediction, in percent."""
        return float(100 * self.predictions.mean())

    @property
    def standard_error(self) -> float:
        """Spread of the predictions over instructions / sqrt(rows), in percent: not the sampling error of the fit."""
        return float(100 * self.predictions.std(ddof=1) / np.sqrt(len(self.predictions)))


def standardised_length_difference(baseline: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Return (baseline - model) / its standard deviation (ddof 1); zeros where all differences are equal to zero."""
    difference = np.asarray(baseline, dtype=np.float64) - np.asarray(model, dtype=np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    if spread == 0:
        if difference.any():
            raise InputError("every answer differs from the baseline's by the same length, so no length effect shows")
        return difference
    return difference / spread


def length_controlled(
    preference: np.ndarray,
    std_delta_len: np.ndarray,
    difficulty: np.ndarray,
    gamed: GamedRows,
    *,
    C: float | None = None,
) -> LengthControlled:
    """Fit the model to one model's rows and predict every row at equal length.

    Rows whose preference is NaN are predicted but not fitted, as in the original.

    Args:
        preference: probability that the model's answer is preferred to the baseline's, or NaN; (rows,).
        std_delta_len: see `standardised_length_difference`; (rows,).
        difficulty: difficulty of each row's instruction; (rows,).
        gamed: the rows that hold the length effect near the baseline's.
        C: inverse strength of the L1 penalty; None chooses it by cross-validation. A value of `C_GRID`, from which
            published fits have theirs, is fitted as those are, early stop included; any other to the optimum.

    Raises:
        InputError: no row has a preference.
    """
    known = np.isfinite(preference)
    if not known.any():
        raise InputError("no verdict could be read, so there is nothing to fit")
    known_gamed = np.isfinite(gamed.preference)
    own = np.column_stack([np.tanh(std_delta_len), difficulty, np.ones(len(preference))])[known]
    others = np.column_stack([np.tanh(gamed.std_delta_len), gamed.difficulty, np.zeros(len(gamed.preference))])
    features = np.vstack([others[known_gamed], own])
    labels = np.concatenate([gamed.preference[known_gamed], preference[known]])
    weights = np.where(features[:, 2] == 1, 1.0, GAMED_WEIGHT)
    if C is None:
        C = choose_C(features, labels, weights)
    published = bool(np.isclose(C, C_GRID, rtol=1e-6, atol=0).any())
    fitted = _fit(features, labels, weights, C, PUBLISHED_STOP if published else OPTIMUM)
    return LengthControlled(
        weights=(float(fitted[0]), float(fitted[1]), float(fitted[2])),
        C=float(C),
        predictions=expit(fitted[1] * difficulty + fitted[2]),
    )


def choose_C(features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the C of `C_GRID` with the smallest cross-validated log loss; both copies of a row share a fold.

    Neighbouring values differ by 1e-7 to 1e-6 nats, so the choice turns on the solver and on the layout of the folds,
    which scikit-learn has changed: it is worth about 0.15 points of a win rate.
    """
    from sklearn.model_selection import GroupKFold

    rows = len(labels)
    folds = list(GroupKFold(FOLDS).split(np.zeros(2 * rows), groups=np.tile(np.arange(rows), 2)))
    losses = np.zeros(len(C_GRID))
    for train, test in folds:
        # Both copies of a row are in one fold, and the first copy has the row's own number.
        train, test = train[train < rows], test[test < rows]
        for column, C in enumerate(C_GRID):
            fitted = _fit(features[train], labels[train], weights[train], C, PUBLISHED_STOP)
            logits = features[test] @ fitted
            loss = labels[test] * log_expit(logits) + (1 - labels[test]) * log_expit(-logits)
            losses[column] -= np.mean(weights[test] * loss)
    return float(C_GRID[losses.argmin()])


def is_extreme(win_rate: float, controlled: float) -> bool:
    """Whether length control moves a win rate so far (percent) that the original warns of a failed fit."""
    low = min(win_rate - win_rate / 4, win_rate - 10)
    high = max(win_rate + (100 - win_rate) / 4, win_rate + 10)
    return not low <= controlled <= high


def _fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, C: float, stop: dict[str, Any]) -> np.ndarray:
    """Fit soft labels: every row once as a success and once as a failure, weighted by its label."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # scikit-learn 1.8 renamed the choice of the penalty.
    deprecated = inspect.signature(LogisticRegression).parameters["penalty"].default == "deprecated"
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if deprecated else {"penalty": "l1"}
    model = LogisticRegression(
        C=C, solver="liblinear", fit_intercept=False, random_state=SOLVER_SEED, **penalty, **stop
    )
    copies = np.vstack([features, features])
    outcome = np.repeat([1, 0], len(labels))
    shares = np.concatenate([labels * weights, (1 - labels) * weights])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(copies, outcome, sample_weight=shares)
    return np.asarray(model.coef_[0], dtype=np.float64)
