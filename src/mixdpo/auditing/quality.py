"""Quality beside margin: how good the answers are against policies' own answers to the same prompts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import numpy as np

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Section
from mixdpo.auditing.statistics import ends_of, mean
from mixdpo.common.statistics import by_margin
from mixdpo.pairs.quality import Quality

BUCKETS: Final = 5
"""Parts by margin, at most: the policies may have answered few of the prompts."""


def quality_check(data: AuditData) -> Section:
    """Describe how good chosen and rejected answers are against each policy's, by margin."""
    if not data.qualities:
        return Section(figures=None)
    return Section(figures={name: quality_figures(one, data.margin) for name, one in data.qualities.items()})


def quality_figures(quality: Quality, margin: np.ndarray | None) -> dict[str, Any]:
    """Describe the answers of N pairs against those of a policy.

    Args:
        quality: of the answers.
        margin: float64 of shape (N,), NaN where missing; None without margins.

    Returns:
        `pairs`, those `known` (of which the chosen answer has a quality) and `unknown`; the means of what `Quality`
        holds; and `buckets`, the same by part of the margin from its `low` to its `high` end, hardest first.
    """
    parts = [] if margin is None else by_margin(margin, BUCKETS)
    buckets = [{**ends_of(margin[rows]), **_means(quality, rows)} for rows in parts if margin is not None]
    return {**_means(quality, np.arange(len(quality.chosen))), "buckets": buckets}


def _means(quality: Quality, rows: np.ndarray) -> dict[str, Any]:
    known = int(quality.known[rows].sum())
    means = {}
    for side in fields(Quality):
        values = getattr(quality, side.name)[rows]
        means[side.name] = mean(values[~np.isnan(values)], (0, 1) if side.name.endswith("_wins") else None)
    return {"pairs": len(rows), "known": known, "unknown": len(rows) - known, **means}
