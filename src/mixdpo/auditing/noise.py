"""How many labels are wrong, as far as the data itself can tell, and which ones are the likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np
import scipy

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import RARE, Finding, Flagged, Section, each_alone
from mixdpo.auditing.statistics import CONFIDENCE, Estimate, share
from mixdpo.plan.threshold import judges_labels

DRAWS: Final = 1000
LEAST_TENS: Final = 20
"""So many ratings of exactly 10 before they are called a spike."""


def noise_check(data: AuditData) -> Section:
    """Estimate label noise, and flag the labels most likely wrong: `mislabelled`, `ratings_of_ten`."""
    opinions = {
        name: values for name, values in data.margins.items() if name == "rating" or judges_labels(name, values)
    }
    figures, doubt, is_suspect = noise_figures(opinions, data.scores, data.rng(1))
    flagged = {"ratings_of_ten": each_alone(is_suspect)} if "rating" in data.margins else {}
    if len(opinions) > 1:
        flagged["mislabelled"] = Flagged(group=_most_contradict(opinions, doubt))
    findings = [_label_noise(figures, len(data)), _spike_of_tens(figures["ratings_of_ten"])]
    return Section(figures=figures, flagged=flagged, findings=findings)


def noise_figures(
    margins: Mapping[str, np.ndarray], scores: tuple[np.ndarray, np.ndarray] | None, rng: np.random.Generator
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Estimate the share of wrong labels.

    One metric can only disagree with the label: `disagreement` mixes the errors of both. With two metrics (or more)
    whose errors are independent of the label's and of each other's, the label's own error follows from the three
    rates of disagreement (`estimate`).

    Args:
        margins: by metric, float64 of shape (N,), NaN where missing; zero says nothing about the label.
        scores: ratings of chosen and rejected.
        rng: resamples pairs.

    Returns:
        figures; how doubtful each label is (float64 of shape (N,), 0 for those no metric contradicts); and the pairs
        with a rating of 10 that another metric contradicts (bool of shape (N,)).
    """
    opinions = {name: np.sign(np.nan_to_num(values)) for name, values in margins.items()}
    figures: dict[str, Any] = {
        "disagreement": {name: share(int((o < 0).sum()), int((o != 0).sum())) for name, o in opinions.items()},
        "estimate": [
            {"first": first, "second": second, "error": label_error(opinions[first], opinions[second], rng)}
            for first, second in combinations(opinions, 2)
        ],
    }
    doubt = _doubt(margins)
    tens, is_suspect = _ratings_of_ten(margins, scores)
    figures["ratings_of_ten"] = tens
    return figures, doubt, is_suspect


def label_error(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Estimate the share of wrong labels from two independent opinions on each pair.

    With error rates e of the label, a and b of the opinions, all independent, any two disagree at a rate d with
    1 - 2d = (1 - 2e)(1 - 2a), so (1 - 2e)^2 = (1 - 2d_a)(1 - 2d_b) / (1 - 2d_ab). The interval is a percentile
    bootstrap over pairs, which only needs the counts of the four outcomes.

    Args:
        first: agrees with the label (1), contradicts it (-1) or does not say (0); shape (N,).
        second: likewise.
        rng: draws the resamples.
    """
    both = (first != 0) & (second != 0)
    outcome = np.bincount(2 * (first[both] < 0) + (second[both] < 0), minlength=4)
    n = int(outcome.sum())
    estimate = _solve(outcome / max(n, 1))
    if n < 2 or np.isnan(estimate):
        return {"value": None, "low": None, "high": None, "n": n}
    draws = _solve(rng.multinomial(n, outcome / n, size=DRAWS) / n)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail]).tolist()
    return {"value": float(estimate), "low": low, "high": high, "n": n}


def _solve(rates: np.ndarray) -> np.ndarray:
    """Return e from the rates of (both agree, second contradicts, first contradicts, both contradict), last axis 4."""
    agree_first = 1 - 2 * (rates[..., 2] + rates[..., 3])
    agree_second = 1 - 2 * (rates[..., 1] + rates[..., 3])
    agree_both = 1 - 2 * (rates[..., 1] + rates[..., 2])
    with np.errstate(divide="ignore", invalid="ignore"):
        square = agree_first * agree_second / agree_both
    valid = (agree_first > 0) & (agree_second > 0) & (agree_both > 0)
    return np.where(valid, np.clip((1 - np.sqrt(np.clip(square, 0, 1))) / 2, 0, 0.5), np.nan)


def _doubt(margins: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean over metrics of each negative margin's rank among the negative ones, in (0, 1].

    A pair that some metric contradicts and another supports strongly is less doubtful than one both contradict.
    """
    n = len(next(iter(margins.values()))) if margins else 0
    total, votes = np.zeros(n), np.zeros(n)
    for values in margins.values():
        known = np.isfinite(values)
        order = scipy.stats.rankdata(np.where(known, values, np.inf), method="ordinal") - 1
        against = known & (values < 0)
        total += np.where(against, 1 - order / max(1, against.sum()), 0.0)
        votes += known
    return total / np.maximum(votes, 1)


def _ratings_of_ten(
    margins: Mapping[str, np.ndarray], scores: tuple[np.ndarray, np.ndarray] | None
) -> tuple[dict[str, Any] | None, np.ndarray]:
    """Look for the known fault of UltraFeedback: overall ratings of 1 that were stored as 10.

    On a scale from 1 to 10 such ratings make a spike at exactly 10: surely more of them than in the whole interval
    [9, 10).
    """
    if scores is None:
        n = len(next(iter(margins.values()))) if margins else 0
        return None, np.zeros(n, dtype=bool)
    chosen, rejected = scores
    both = np.concatenate(scores)
    suspect = np.zeros(len(chosen), dtype=bool)
    if both.min() < 1 or both.max() != 10:
        return None, suspect
    tens, below = int((both == 10).sum()), int(((both >= 9) & (both < 10)).sum())
    for name, values in margins.items():
        if name != "rating":
            suspect |= ((chosen == 10) & (rejected < 10) & (values < 0)) | ((rejected == 10) & (values > 0))
    spike = tens >= LEAST_TENS and (share(tens, tens + below)["low"] or 0) > 0.5
    return {"tens": tens, "nine_to_ten": below, "spike": spike, "contradicted": int(suspect.sum())}, suspect


def _most_contradict(margins: Mapping[str, np.ndarray], doubt: np.ndarray) -> np.ndarray:
    """Flag the pairs that most of their margins contradict; groups are numbered from the most doubtful."""
    stacked = np.stack(list(margins.values()))
    known = np.isfinite(stacked).sum(axis=0)
    flagged = (np.nan_to_num(stacked) < 0).sum(axis=0) * 2 > known
    rank = scipy.stats.rankdata(-doubt, method="ordinal").astype(np.int64) - 1
    return np.where(flagged, rank, -1)


def _label_noise(figures: Mapping[str, Any], n: int) -> Finding | None:
    known = [item for item in figures["estimate"] if item["error"]["low"] is not None]
    worst = min(known, key=lambda item: item["error"]["low"], default=None)
    if worst is None or worst["error"]["low"] <= RARE:
        return None
    value = worst["error"]["value"]
    return Finding(
        name="label_noise",
        level="doubtful",
        title="Label noise",
        meaning=f"Estimated from margins {worst['first']} and {worst['second']}, taken as independent.",
        measure="of labels are wrong, estimated",
        estimate=worst["error"],
        pairs=round(value * n),
        line=f"`train.label_smoothing: {value:.2f}`",
    )


def _spike_of_tens(tens: Mapping[str, Any] | None) -> Finding | None:
    if tens is None or not tens["spike"]:
        return None
    return Finding(
        name="ratings_spike",
        level="notable",
        title="A spike of ratings of exactly 10",
        meaning=f"{tens['tens']:,} ratings are 10 and {tens['nine_to_ten']:,} from 9 up to it. UltraFeedback stored "
        "about 2,000 ratings of 1 as 10.",
        measure="of ratings from 9 to 10 are exactly 10",
        estimate=share(tens["tens"], tens["tens"] + tens["nine_to_ten"]),
        pairs=tens["tens"],
        line="read the mean of the aspects, where the data has it, such as "
        "`data.columns: {score_chosen: chosen-rating, score_rejected: rejected-rating}`",
    )
