"""One figure of a run in stages: routes by stage, and how far the plan has moved from that of the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mixdpo.common.figure_files import save_figure
from mixdpo.plan.plan_settings import ROUTES

# Okabe-Ito colours: told apart by colour-blind readers and in grey print.
_COLOURS = {"preference": "#0072B2", "sft": "#E69F00", "both": "#009E73", "tie": "#CC79A7", "drop": "#999999"}
_GREY = "#999999"


def stage_figure(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the lines of `metrics.jsonl` that have a `stage`, one per stage; what a run does not have is left out."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    routes, moved, gate = figure.subplots(1, 3)
    numbers = [int(line["stage"]) for line in stages]

    routes.set_title("Routes of the pairs trained")
    shares = {str(route): [line.get(f"stage/route/{route}", 0.0) for line in stages] for route in ROUTES}
    _stack(routes, numbers, shares, _COLOURS)
    routes.set_ylim(0, 1)
    routes.yaxis.set_major_formatter(PercentFormatter(1))

    moved.set_title("Rank correlation with the first order")
    known = [
        (int(line["stage"]), line["stage/rank_correlation"]) for line in stages if "stage/rank_correlation" in line
    ]
    if known:
        moved.plot(*zip(*known, strict=True), color=_COLOURS["preference"], marker="o")
        moved.set_ylim(min(-0.03, *(value for _, value in known)) - 0.05, 1.05)
    else:
        moved.text(0.5, 0.5, "no margins", ha="center", va="center", color=_GREY, transform=moved.transAxes)

    gated = any("stage/gate/open" in line for line in stages)
    gate.set_title("Hard pairs at the gate" if gated else "Pairs that changed their route")
    counted = {"let through": "stage/gate/open", "not risen": "stage/gate/closed"}
    if not gated:
        counted = {"changed": "stage/changed_route"}
    heights = {label: [line.get(name, 0.0) for line in stages] for label, name in counted.items()}
    _stack(gate, numbers, heights, {"let through": _COLOURS["sft"], "not risen": _GREY, "changed": _COLOURS["both"]})
    gate.set_ylabel("pairs")

    for axis in (routes, moved, gate):
        axis.set_xlabel("stage")
        axis.set_xticks(numbers)
        axis.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save_stage_figure(metrics: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `stages.png` and `stages.svg` into `folder`; nothing for a run without stages."""
    stages = [line for line in metrics if "stage" in line]
    if stages:
        save_figure(stage_figure(stages), folder / "stages")


def _stack(
    axis: Axes, places: Sequence[int], heights: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    """Draw bars of parts on top of each other, and name the parts that there are."""
    bottom = [0.0] * len(places)
    for label, values in heights.items():
        if any(values):
            axis.bar(places, values, 0.6, bottom=bottom, label=label, color=colours[label])
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    if any(bottom):
        axis.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
