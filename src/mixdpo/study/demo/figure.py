"""The demo's result in one figure: answers by number of demands met, and the gain with its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure
from mixdpo.common.statistics import Interval

_BEFORE, _AFTER = "#999999", "#0072B2"


def demo_figure(met_before: np.ndarray, met_after: np.ndarray, gain: Interval) -> Figure:
    """Draw how many demands the answers met; both arrays have shape (prompts,)."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    counts, difference = figure.subplots(1, 2, width_ratios=[2, 1])
    most = int(max(met_before.max(), met_after.max(), 3))
    for offset, met, label, colour in ((-0.2, met_before, "before", _BEFORE), (0.2, met_after, "after", _AFTER)):
        heights = np.bincount(met.astype(int), minlength=most + 1) / len(met)
        bars = counts.bar(
            np.arange(most + 1) + offset, heights, 0.4, label=f"{label}: {met.mean():.2f} of 3", color=colour
        )
        counts.bar_label(bars, fmt=lambda height: f"{height:.0%}", fontsize="small")
    counts.set_xticks(range(most + 1))
    counts.set_xlabel("demands met by an answer")
    counts.set_ylabel("share of held-out prompts")
    counts.legend(frameon=False)

    difference.errorbar(
        [0], [gain.estimate], [[gain.estimate - gain.low], [gain.high - gain.estimate]],
        fmt="o", color=_AFTER, capsize=6,
    )  # fmt: skip
    difference.annotate(f"{gain.estimate:+.2f}", (0, gain.estimate), textcoords="offset points", xytext=(10, -3))
    difference.axhline(0, color=_BEFORE, linewidth=0.8)
    difference.set_xlim(-1, 1)
    difference.set_xticks([])
    difference.set_title(f"gain, {gain.level:.0%} interval", fontsize="medium")
    difference.set_ylabel("demands per answer")
    for axis in (counts, difference):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save_demo_figure(met_before: np.ndarray, met_after: np.ndarray, gain: Interval, stem: Path) -> None:
    """Write the figure as `<stem>.png` and `<stem>.svg`."""
    save_figure(demo_figure(met_before, met_after, gain), stem)
