"""How much of the label is style: single cues, and a classifier that sees nothing but the surface."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mixdpo.auditing.statistics import share
from mixdpo.auditing.surface import CUES

FOLDS: Final = 5
LEAST_PAIRS: Final = 50
"""Fewer pairs say nothing about a classifier."""


def style_figures(features: pl.DataFrame, most_pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return `cues`, one record per cue, and `classifier` (None below `LEAST_PAIRS` pairs or prompts per fold).

    Args:
        features: `surface_features` of the data.
        most_pairs: pairs the classifier is fitted on, at most.
        rng: draws those pairs and the side each is shown from.
    """
    return {"cues": [_cue(features, cue) for cue in CUES], "classifier": _classifier(features, most_pairs, rng)}


def _cue(features: pl.DataFrame, cue: str) -> dict[str, Any]:
    """Compare how often a cue occurs in chosen and rejected answers.

    `predicts` is the share of pairs with unequal counts whose chosen answer has more of it; `p` is the two-sided
    sign test against one half.
    """
    chosen, rejected = (features[f"{side}/{cue}"].to_numpy().astype(np.int64) for side in ("chosen", "rejected"))
    more, unequal = int((chosen > rejected).sum()), int((chosen != rejected).sum())
    return {
        "name": cue,
        "chosen": float((chosen > 0).mean()),
        "rejected": float((rejected > 0).mean()),
        "predicts": share(more, unequal),
        "p": float(stats.binomtest(more, unequal).pvalue) if unequal else None,
    }


def _classifier(features: pl.DataFrame, most_pairs: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """Predict which answer was chosen from differences of surface counts, cross-validated.

    Each pair is shown once, from a random side, so that guessing gives one half. Pairs of one prompt share a fold.
    """
    rows = np.sort(rng.permutation(len(features))[:most_pairs])
    part = features[rows]
    groups = part["prompt/hash"].to_numpy()
    if len(part) < LEAST_PAIRS or len(np.unique(groups)) < FOLDS:
        return None
    names = ["words", "characters per word", *CUES]
    difference = _surface(part, "chosen") - _surface(part, "rejected")
    is_shown = rng.random(len(part)) < 0.5
    side = np.where(is_shown, 1.0, -1.0)
    seen = difference * side[:, None]
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(fit_intercept=False))
    split = GroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    scores = cross_val_predict(model, seen, is_shown, groups=groups, cv=split, method="decision_function")
    length_only = cross_val_predict(model, seen[:, :1], is_shown, groups=groups, cv=split, method="decision_function")
    weights = model.fit(seen, is_shown)[-1].coef_[0]
    ranked = sorted(zip(names, weights.tolist(), strict=True), key=lambda item: -abs(item[1]))
    return {
        "accuracy": share(int(((scores > 0) == is_shown).sum()), len(part)),
        "length_only": share(int(((length_only > 0) == is_shown).sum()), len(part)),
        "auc": float(roc_auc_score(is_shown, scores)),
        "pairs": len(part),
        "folds": FOLDS,
        "weights": [{"name": name, "weight": weight} for name, weight in ranked],
    }


def _surface(features: pl.DataFrame, side: str) -> np.ndarray:
    """Return what the classifier sees of one side, float64 of shape (N, 2 + cues), on a log scale."""
    counts = np.log1p(features.select(f"{side}/{name}" for name in ("words", "chars", *CUES)).to_numpy())
    # Characters follow words so closely that the weights of both would say nothing; those of one and the ratio do.
    counts[:, 1] -= counts[:, 0]
    return counts
