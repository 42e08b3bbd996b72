"""The curve that `threshold: auto` was read from: agreement with the label by margin, and where it was cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mixdpo.common.figure_files import save_figure
from mixdpo.common.tables import percent_text
from mixdpo.plan.advice import Advice

_COLOURS = {"tie": "#999999", "not trusted": "#D55E00", "undecided": "#E69F00", "trusted": "#009E73"}
_GREY, _BLUE = "#999999", "#0072B2"


def agreement_figure(curve: Mapping[str, Any], advice: Advice | None = None) -> Figure:
    """Draw a curve as `dataclasses.asdict` gives it, and the routes that are advised by it.

    Pairs run from the hardest to the easiest, so that every bin is as wide as its share of the data.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    bins = curve["bins"]
    ends = np.cumsum([item["pairs"] for item in bins])
    ends, starts = ends / ends[-1], np.append(0, ends[:-1]) / ends[-1]
    middles = (starts + ends) / 2
    for number, signal in enumerate(curve["signals"]):
        shares = [item["by_signal"][number] for item in bins]
        label = signal["metric"] if signal["weight"] else f"{signal['metric']} (left out)"
        axis.plot(middles, shares, linewidth=0.8, marker=".", linestyle=":", label=label)
    named = set()
    for item, start, end in zip(bins, starts, ends, strict=True):
        if item["agreement"] is None:
            continue
        colour, verdict = _COLOURS[item["verdict"]], item["verdict"]
        axis.fill_between([start, end], item["low"], item["high"], color=colour, alpha=0.25, linewidth=0)
        label = None if verdict in named else f"all signals: {verdict}"
        axis.plot([start, end], [item["agreement"]] * 2, color=colour, linewidth=2, label=label)
        named.add(verdict)
    axis.axhline(0.5, color=_GREY, linewidth=0.8)
    if curve["required"] is not None:
        label = f"required: {percent_text(curve['required'])}"
        axis.axhline(curve["required"], color=_BLUE, linewidth=1, linestyle="--", label=label)
    axis.set_xlim(0, 1)
    ticks = range(0, len(bins), max(1, len(bins) // 8))
    axis.set_xticks([starts[i] for i in ticks], [f"{bins[i]['margin_min']:.3g}" for i in ticks])
    axis.set_xlabel("margin (on a scale of shares of the pairs, hardest first)")
    axis.set_ylabel("agreement with the label")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.spines[["top", "right"]].set_visible(False)
    if curve["threshold"] is not None:
        share = curve["routed"] / sum(item["pairs"] for item in bins)
        label = f"threshold {curve['threshold']:.3g} ({percent_text(share)} under it)"
        axis.axvline(share, color="black", linewidth=1, label=label)
    if advice is not None:
        _draw_routes(axis, advice)
    axis.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(curve_title(curve), x=0.01, ha="left", fontweight="bold", fontsize="medium")
    return figure


def curve_title(curve: Mapping[str, Any]) -> str:
    """Say on two lines at most what was found: a threshold, ties alone, or none."""
    pairs, routed = sum(item["pairs"] for item in curve["bins"]), curve["routed"]
    ties = sum(item["pairs"] for item in curve["bins"] if item["verdict"] == "tie")
    share = f"{routed:,} of {pairs:,} pairs ({percent_text(routed / pairs)})"
    none = f"No threshold found{f'; the ties alone are routed, {share}' if routed else ''}:\n"
    if curve["required"] is None:
        return f"{none}no other metric speaks for or against the labels"
    required = percent_text(curve["required"])
    if routed > ties:
        found = f"Threshold {curve['threshold']:.3g}: {share} have a smaller margin,\n"
        return f"{found}and the signals agree with fewer of their labels than the {required} required"
    return f"{none}no margin is shown to have labels under the required agreement of {required}"


def _draw_routes(axis: Axes, advice: Advice) -> None:
    """Name the route of every part along the upper edge, between lines where it changes."""
    end = 0.0
    for number, one in enumerate(advice.parts):
        start, end = end, end + one.part.share
        if number and one.route != advice.parts[number - 1].route:
            axis.axvline(start, color=_GREY, linewidth=0.8, linestyle=":")
        if not number or one.route != advice.parts[number - 1].route:
            transform = axis.get_xaxis_transform()
            axis.text(start + 0.005, 1.0, one.route, transform=transform, va="bottom", fontsize="small")


def save_agreement_figure(curve: Mapping[str, Any], path: Path, advice: Advice | None = None) -> None:
    """Write the figure to `path` (.png) and beside it as .svg."""
    save_figure(agreement_figure(curve, advice), path.with_suffix(""))
