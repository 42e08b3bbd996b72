"""What a threshold would do: pairs, steps, text read and learning-rate mass by route, for every threshold at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Section
from mixdpo.auditing.statistics import short_between

POSITIONS: Final = 201
"""Thresholds the slider stops at, at most."""
_ROUNDING: Final = 1e-9


def plan_check(data: AuditData) -> Section:
    """Preview the default plan at every threshold."""
    if data.margin is None:
        return Section(figures=None)
    return Section(figures=plan_preview(data.margin, data.lengths(), data.settings.pairs_per_step))


def plan_preview(margin: np.ndarray, lengths: Mapping[str, np.ndarray], pairs_per_step: int) -> dict[str, Any] | None:
    """Return, per threshold, what the default plan (easy to hard, pairs under it to SFT) would train by which route.

    Args:
        margin: float64, shape (N,); pairs without a finite one are left out.
        lengths: of `prompt`, `chosen` and `rejected`, in tokens or words, int64 of shape (N,). SFT reads no rejected
            answer, and no route reads the prompt twice.
        pairs_per_step: pairs per optimizer step.

    Returns:
        None without margins, else `pairs` and `steps` of the whole plan, and lists with one entry per threshold, in
        increasing order: `threshold` (of few digits, pairs strictly under it go to SFT), `sft_pairs`,
        `preference_read` and `sft_read` (in the unit of the lengths), `preference_mass` (share of the learning-rate
        integral of a cosine schedule with a tenth of warm-up).
    """
    rows = np.flatnonzero(np.isfinite(margin))
    if len(rows) == 0:
        return None
    rows = rows[np.argsort(margin[rows], kind="stable")]
    margin, for_sft = margin[rows], (lengths["prompt"] + lengths["chosen"])[rows]
    for_preference = for_sft + lengths["rejected"][rows]
    values = _thresholds(margin)
    sft = np.searchsorted(margin, values, side="left")
    read_sft = np.concatenate([[0], np.cumsum(for_sft)])[sft]
    read_all = np.concatenate([[0], np.cumsum(for_preference)])
    steps = int(np.ceil(len(margin) / pairs_per_step))
    mass = np.concatenate([[0.0], np.cumsum(cosine_with_warmup(steps))])
    # Training goes from easy to hard, so the preference part comes first; a step may hold pairs of both.
    step_ends = np.minimum(np.arange(steps + 1) * pairs_per_step, len(margin))
    preference_mass = np.interp(len(margin) - sft, step_ends, mass) / mass[-1]
    return {
        "pairs": len(margin),
        "steps": steps,
        "pairs_per_step": pairs_per_step,
        "threshold": values.tolist(),
        "sft_pairs": sft.tolist(),
        "sft_read": read_sft.tolist(),
        "preference_read": (read_all[-1] - read_all[sft]).tolist(),
        "preference_mass": preference_mass.tolist(),
    }


def recommendation(preview: Mapping[str, Any], advice: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the advice on hard pairs comes to in the preview.

    Args:
        preview: `plan_preview`.
        advice: `advice_figures`.

    Returns:
        `problem`, as of the advice; `parts`, what is not trained by the preference loss: `route`, `low` and `high` (of
        the margin) and `share` of the pairs, neighbours of one route as one; and `at`, the threshold of the preview
        that sends to SFT what the advice does, mixed in or last (the first sends none).
    """
    if advice["problem"] is not None:
        return {"problem": advice["problem"], "parts": [], "at": 0}
    parts: list[dict[str, Any]] = []
    for route, group in groupby(advice["parts"], key=itemgetter("route")):
        if route != "preference":
            own = [one["part"] for one in group]
            ends = {"low": own[0]["margin_min"], "high": own[-1]["margin_max"]}
            parts.append({"route": route, **ends, "share": sum(part["share"] for part in own)})
    hardest = max((part["high"] for part in parts if part["route"] in ("sft", "sft_last")), default=-np.inf)
    at = int(np.searchsorted(preview["threshold"], hardest, side="right"))
    return {"problem": None, "parts": parts, "at": min(at, len(preview["threshold"]) - 1)}


def _thresholds(margin: np.ndarray) -> np.ndarray:
    """Return the thresholds to choose from, of few digits and in increasing order.

    Where margins take few values each pair of neighbours has one between them, else one is about at every quantile.
    """
    values = np.unique(margin)
    if len(values) > POSITIONS:
        values = np.unique(np.quantile(margin, np.linspace(0, 1, POSITIONS), method="closest_observation"))
    before = np.concatenate([[-np.inf], values[:-1]])
    # Values that differ by a rounding error of their subtraction are one.
    told_apart = values - before > _ROUNDING * np.maximum(1, np.abs(values))
    return np.array(list(map(short_between, before[told_apart].tolist(), values[told_apart].tolist())))


def cosine_with_warmup(steps: int, warmup: float = 0.1) -> np.ndarray:
    """Return the learning rate of each step over its peak, float64 of shape (steps,), as transformers schedules it."""
    rising = min(int(np.ceil(warmup * steps)), steps - 1)
    step = np.arange(steps)
    falling = 0.5 * (1 + np.cos(np.pi * (step - rising) / max(1, steps - rising)))
    return np.where(step < rising, step / max(1, rising), falling)
