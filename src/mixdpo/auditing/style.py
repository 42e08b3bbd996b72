"""How much of the label is length and style: is the longer answer chosen, and what does the surface say?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
import scipy

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Finding, Section
from mixdpo.auditing.statistics import ends_of, mean, rank_correlation, share, standardised_mean
from mixdpo.auditing.surface import CUES
from mixdpo.common.statistics import by_margin

MARGIN_BUCKETS: Final = 10
LENGTH_TOLERANCE: Final = 0.05
"""Distance from one half under which the share of longer chosen answers is no finding."""
STYLE_TOLERANCE: Final = 0.60
"""Accuracy of the style classifier under which style is no finding."""
STYLE_FOLDS: Final = 5
LEAST_STYLE_PAIRS: Final = 50
"""Fewer pairs say nothing about a classifier."""


def length_check(data: AuditData) -> Section:
    """Compare the lengths of chosen and rejected answers."""
    figures = length_figures(data.features, data.margin)
    return Section(figures=figures, findings=[_length_bias(figures, len(data))])


def style_check(data: AuditData) -> Section:
    """Look for what else on the surface tells chosen from rejected answers."""
    figures = style_figures(data.features, data.settings.style_pairs, data.rng(4))
    return Section(figures=figures, findings=[_style_bias(figures, len(data))])


def length_figures(features: pl.DataFrame, margin: np.ndarray | None) -> dict[str, Any]:
    """Compare the words of chosen and rejected answers.

    Args:
        features: `surface_features` of the data.
        margin: float64 of shape (N,), NaN where missing; None without margins.

    Returns:
        `reasoning`: how many chosen and rejected answers begin with reasoning, whose words are not counted; `longer`:
        share of pairs of unequal length whose chosen answer is longer; `ratio`: geometric mean of chosen over rejected
        length; `d`: Cohen's d of the log ratio; `buckets`: `longer` by tenth of the margin, hardest
        first; `correlation` of the log ratio with the margin.
    """
    chosen = features["chosen/words"].to_numpy().astype(np.float64)
    rejected = features["rejected/words"].to_numpy().astype(np.float64)
    log_ratio = np.log(np.maximum(chosen, 1)) - np.log(np.maximum(rejected, 1))
    ratio = mean(log_ratio)
    exponent = {key: value if value is None or key == "n" else float(np.exp(value)) for key, value in ratio.items()}
    return {
        "reasoning": [int(features[f"{side}/reasoning"].sum()) for side in ("chosen", "rejected")],
        "longer": _longer(chosen, rejected),
        "equal": int((chosen == rejected).sum()),
        "ratio": exponent,
        "d": standardised_mean(log_ratio),
        "buckets": [] if margin is None else _by_margin(chosen, rejected, margin),
        "correlation": None if margin is None else rank_correlation(log_ratio, margin),
    }


def _longer(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float | int | None]:
    return share(int((chosen > rejected).sum()), int((chosen != rejected).sum()))


def _by_margin(chosen: np.ndarray, rejected: np.ndarray, margin: np.ndarray) -> list[dict[str, Any]]:
    return [
        {**ends_of(margin[rows]), "pairs": len(rows), "longer": _longer(chosen[rows], rejected[rows])}
        for rows in by_margin(margin, MARGIN_BUCKETS)
    ]


def style_figures(features: pl.DataFrame, most_pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return `cues`, one record per cue, and `classifier` (None below `LEAST_STYLE_PAIRS` pairs or prompts per fold).

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
        "p": float(scipy.stats.binomtest(more, unequal).pvalue) if unequal else None,
    }


def _classifier(features: pl.DataFrame, most_pairs: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """Predict which answer was chosen from differences of surface counts, cross-validated.

    Each pair is shown once, from a random side, so that guessing gives one half. Pairs of one prompt share a fold.
    """
    rows = np.sort(rng.permutation(len(features))[:most_pairs])
    part = features[rows]
    groups = part["prompt/hash"].to_numpy()
    if len(part) < LEAST_STYLE_PAIRS or len(np.unique(groups)) < STYLE_FOLDS:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = ["words", "characters per word", *CUES]
    difference = _surface(part, "chosen") - _surface(part, "rejected")
    is_shown = rng.random(len(part)) < 0.5
    side = np.where(is_shown, 1.0, -1.0)
    seen = difference * side[:, None]
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(fit_intercept=False))
    split = GroupKFold(STYLE_FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    scores = cross_val_predict(model, seen, is_shown, groups=groups, cv=split, method="decision_function")
    length_only = cross_val_predict(model, seen[:, :1], is_shown, groups=groups, cv=split, method="decision_function")
    weights = model.fit(seen, is_shown)[-1].coef_[0]
    ranked = sorted(zip(names, weights.tolist(), strict=True), key=lambda item: -abs(item[1]))
    return {
        "accuracy": share(int(((scores > 0) == is_shown).sum()), len(part)),
        "length_only": share(int(((length_only > 0) == is_shown).sum()), len(part)),
        "auc": float(roc_auc_score(is_shown, scores)),
        "pairs": len(part),
        "folds": STYLE_FOLDS,
        "weights": [{"name": name, "weight": weight} for name, weight in ranked],
    }


def _surface(features: pl.DataFrame, side: str) -> np.ndarray:
    """Return what the classifier sees of one side, float64 of shape (N, 2 + cues), on a log scale."""
    counts = np.log1p(features.select(f"{side}/{name}" for name in ("words", "chars", *CUES)).to_numpy())
    # Characters follow words so closely that the weights of both would say nothing; those of one and the ratio do.
    counts[:, 1] -= counts[:, 0]
    return counts


def _length_bias(figures: Mapping[str, Any], n: int) -> Finding | None:
    longer = figures["longer"]
    if longer["n"] == 0 or longer["low"] <= 0.5 + LENGTH_TOLERANCE:
        return None
    ratio = figures["ratio"]["value"]
    return Finding(
        name="length_bias",
        level="doubtful",
        title="Chosen answers are longer",
        meaning=f"They have {ratio:.2f} times the words of rejected ones (geometric mean): training learns length.",
        measure="of pairs of unequal length have the longer answer chosen",
        estimate=longer,
        pairs=n,
        line="`train.loss_type: sigmoid_norm` (or `r_dpo`, `simpo`); judge with a length-controlled win rate",
    )


def _style_bias(figures: Mapping[str, Any], n: int) -> Finding | None:
    classifier = figures["classifier"]
    if classifier is None or classifier["accuracy"]["low"] <= STYLE_TOLERANCE:
        return None
    strongest = ", ".join(item["name"] for item in classifier["weights"][:3])
    return Finding(
        name="style",
        level="doubtful",
        title="Style predicts the label",
        meaning=f"A classifier that sees only counts on the surface finds the chosen answer, mostly by {strongest}.",
        measure="of labels predicted from surface features, cross-validated (guessing: 50 %)",
        estimate=classifier["accuracy"],
        pairs=n,
        line="judge with a style-controlled win rate; collect answers of like style",
    )
