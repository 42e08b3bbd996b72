"""Margins: how they are distributed, where they tie or contradict the label, and how far metrics agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
import polars as pl

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Section, each_alone
from mixdpo.auditing.statistics import binned, mean, rank_correlation, share, short_between, summary
from mixdpo.difficulty.metrics import prefers_an_answer

GRID: Final = 10
"""Cells along each side of the heat map, at most."""
_POINTS: Final = 500
_SCATTERS: Final = 6


def margins_check(data: AuditData) -> Section:
    """Describe the margins, and flag the pairs whose ratings tie or contradict the label: `ties`, `contradicted`."""
    figures = margin_figures(data.margins, data.scores, data.sources, data.metric, data.rng(3))
    if "rating" not in data.margins:
        return Section(figures=figures)
    ratings, least = data.margins["rating"], figures["least_positive"]
    line = "collect ratings that differ"
    if least is not None:
        line = f"`plan.threshold: {short_between(0, least):.15g}` (ties go to SFT)"
    ties = replace(each_alone(ratings == 0), line=line)
    return Section(figures=figures, flagged={"contradicted": each_alone(ratings < 0), "ties": ties})


def margin_figures(
    margins: Mapping[str, np.ndarray],
    scores: tuple[np.ndarray, np.ndarray] | None,
    sources: pl.Series | None,
    metric: str | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Describe the margins.

    Args:
        margins: by metric, float64 of shape (N,), larger = easier; NaN where missing.
        scores: ratings of chosen and rejected, float64 of shape (N,).
        sources: source of each pair, None if there is only one.
        metric: the metric the table by source is made for.
        rng: chooses the points of the scatters.
    """
    return {
        "metric": metric,
        "least_positive": None if metric is None else _least_positive(margins[metric]),
        "metrics": {name: _one(values, name) for name, values in margins.items()},
        "correlations": _correlations(margins),
        "scatters": _scatters(margins, rng),
        "ratings": None if scores is None else rating_grid(*scores),
        "sources": [] if sources is None or metric is None else _by_source(margins[metric], sources, metric),
    }


def rating_grid(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, Any]:
    """Count pairs by the rating of both answers, on one grid; `counts[i][j]` has chosen in cell i, rejected in j."""
    both = np.concatenate([chosen, rejected])
    values = np.unique(both)
    if len(values) <= GRID:
        edges = np.append(values, np.nextafter(values[-1], np.inf))
        labels = [f"{value:g}" for value in values]
    else:
        edges = np.linspace(values[0], values[-1], GRID + 1)
        labels = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges.round(9).tolist())]
    counts, _, _ = np.histogram2d(chosen, rejected, bins=(edges, edges))
    return {
        "labels": labels,
        "counts": counts.astype(int).tolist(),
        "chosen": summary(chosen),
        "rejected": summary(rejected),
    }


def _one(values: np.ndarray, metric: str) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return {"n": 0, "missing": len(values)}
    return {
        "n": len(known),
        "missing": len(values) - len(known),
        "summary": summary(known),
        "histogram": binned(known),
        **_beside_the_label(known, metric),
    }


def _beside_the_label(known: np.ndarray, metric: str) -> dict[str, Any]:
    """Return the shares of margins that tie and, of a metric whose negative ones do, that contradict the label."""
    return {
        "ties": share(int((known == 0).sum()), len(known)),
        "contradicted": share(int((known < 0).sum()), len(known)) if prefers_an_answer(metric) else None,
    }


def _least_positive(values: np.ndarray) -> float | None:
    positive = values[np.isfinite(values) & (values > 0)]
    return float(positive.min()) if len(positive) else None


def _correlations(margins: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"first": first, "second": second, "rho": rank_correlation(margins[first], margins[second])}
        for first, second in combinations(margins, 2)
    ]


def _scatters(margins: Mapping[str, np.ndarray], rng: np.random.Generator) -> list[dict[str, Any]]:
    scatters = []
    for first, second in list(combinations(margins, 2))[:_SCATTERS]:
        both = np.flatnonzero(np.isfinite(margins[first]) & np.isfinite(margins[second]))
        shown = np.sort(rng.permutation(both)[:_POINTS])
        points = np.column_stack([margins[first][shown], margins[second][shown]])
        scatters.append({"first": first, "second": second, "n": len(both), "points": points.tolist()})
    return scatters


def _by_source(margin: np.ndarray, sources: pl.Series, metric: str) -> list[dict[str, Any]]:
    names = sources.to_numpy()
    known = np.isfinite(margin)
    return [
        {
            "name": str(name),
            "mean": mean(margin[mask]),
            **_beside_the_label(margin[mask], metric),
        }
        for name in sources.value_counts(sort=True)["source"][:12]
        if (mask := (names == name) & known).any()
    ]
