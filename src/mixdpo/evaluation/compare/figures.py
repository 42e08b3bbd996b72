"""Figures of a comparison for papers: intervals of all models, and their result against the length of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from mixdpo.common.charts import place_labels

_BLUE: Final = "#0072B2"
_GREY: Final = "#999999"
_DOTS_PER_INCH: Final = 72  # lengths are in points
_LABEL_SIZE: Final = 7.5

Point = Mapping[str, Any]
"""`name`, `value`, `low` and `high` (None without an interval), `length` (None if not known), and `flagged`."""


def forest_figure(points: Sequence[Point], axis_label: str, even: float | None = None) -> Figure:
    """Draw every model's value with its interval, the first on top; hollow points are flagged as degenerate.

    Args:
        points: the models.
        axis_label: what the values are.
        even: the value at which a model does as well as what it was compared with, if there is one.
    """
    figure = Figure(figsize=(7, 0.9 + 0.24 * len(points)), layout="constrained")
    axis = figure.subplots()
    for row, point in enumerate(reversed(points)):
        if point["low"] is not None:
            axis.plot([point["low"], point["high"]], [row, row], color=_BLUE, linewidth=1.4, solid_capstyle="butt")
        axis.plot(point["value"], row, "o", color=_BLUE, markersize=4.5, markerfacecolor=_fill(point))
    if even is not None:
        axis.axvline(even, color=_GREY, linewidth=1, zorder=0)
    # A name may hold what matplotlib would read as mathematics.
    names = [_plain(point["name"]) + (" (flagged)" if point["flagged"] else "") for point in reversed(points)]
    axis.set_yticks(range(len(points)), names, fontsize="small")
    axis.set_ylim(-0.7, len(points) - 0.3)
    axis.set_xlabel(_plain(axis_label))
    axis.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def length_figure(points: Sequence[Point], axis_label: str, even: float | None = None) -> Figure:
    """Draw value against mean length of the answers, for the models whose length is known; else as the forest."""
    known = [point for point in points if point["length"] is not None]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for point in known:
        if point["low"] is not None:
            axis.plot([point["length"]] * 2, [point["low"], point["high"]], color=_BLUE, alpha=0.35, linewidth=1)
        axis.plot(point["length"], point["value"], "o", color=_BLUE, markersize=4, markerfacecolor=_fill(point))
    if even is not None:
        axis.axhline(even, color=_GREY, linewidth=1, zorder=0)
    axis.set_xlabel("mean length of answers, characters")
    axis.set_ylabel(_plain(axis_label))
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # fixes the axes, so that data coordinates have a place
    to_points = _DOTS_PER_INCH / figure.dpi
    corner = axis.transAxes.transform((0, 0))
    places = [
        tuple((axis.transData.transform((point["length"], point["value"])) - corner) * to_points) for point in known
    ]
    width = axis.get_window_extent().width * to_points
    labels = place_labels(
        places, [point["name"] for point in known], width=width, character=0.55 * _LABEL_SIZE, height=1.1 * _LABEL_SIZE
    )
    for point, (x, _), label in zip(known, places, labels, strict=True):
        if label is not None:
            axis.annotate(
                _plain(point["name"]),
                (point["length"], point["value"]),
                xytext=(label[0] - x, 0),
                textcoords="offset points",
                ha="right" if label[2] else "left",
                va="center",
                fontsize=_LABEL_SIZE,
            )
    return figure


def _fill(point: Point) -> str:
    return "white" if point["flagged"] else _BLUE


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
