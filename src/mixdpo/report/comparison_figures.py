"""Figures of a comparison for papers: intervals of all models, and their result against the length of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from mixdpo.report.labels import place_labels

_BLUE: Final = "#0072B2"
_GREY: Final = "#999999"
_DOTS_PER_INCH: Final = 72  # lengths are in points
_LABEL_SIZE: Final = 7.5

Point = Mapping[str, Any]
"""`name`, `value`, `low` and `high` (None without an interval) and `length` (None if not known)."""


def forest_figure(points: Sequence[Point], axis_label: str) -> Figure:
    """Draw every model's value with its interval, the first on top."""
    figure = Figure(figsize=(7, 0.9 + 0.24 * len(points)), layout="constrained")
    axis = figure.subplots()
    for row, point in enumerate(reversed(points)):
        if point["low"] is not None:
            axis.plot([point["low"], point["high"]], [row, row], color=_BLUE, linewidth=1.4, solid_capstyle="butt")
        axis.plot(point["value"], row, "o", color=_BLUE, markersize=4.5)
    # A name may hold what matplotlib would read as mathematics.
    names = [_plain(point["name"]) for point in reversed(points)]
    axis.set_yticks(range(len(points)), names, fontsize="small")
    axis.set_ylim(-0.7, len(points) - 0.3)
    axis.set_xlabel(_plain(axis_label))
    axis.grid(axis="x", color=_GREY, alpha=0.25, linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def length_figure(points: Sequence[Point], axis_label: str) -> Figure:
    """Draw value against mean length of the answers, for the models whose length is known."""
    known = [point for point in points if point["length"] is not None]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for point in known:
        if point["low"] is not None:
            axis.plot([point["length"]] * 2, [point["low"], point["high"]], color=_BLUE, alpha=0.35, linewidth=1)
    axis.plot(
        [point["length"] for point in known], [point["value"] for point in known], "o", color=_BLUE, markersize=4
    )
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


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
