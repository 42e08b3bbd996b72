"""The figure of a map: SFT on hard pairs less dropping them, against how good their answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from mixdpo.common.figure_files import save_figure
from mixdpo.study.world.map_crossing import CrossingPoint, crossing_rows, turns
from mixdpo.study.world.map_format import listed, signed


@dataclass(frozen=True)
class Theme:
    """Colours of one figure: text, what stands beside the data, the side of help, and a line for each world."""

    ink: str
    faint: str
    help: str
    worlds: tuple[str, ...]


THEMES: Final = {
    "crossing": Theme(ink="#1f2328", faint="#6e7781", help="#1a7f37", worlds=("#2f6fde", "#c2570c", "#8250df")),
    "crossing-dark": Theme(ink="#e6edf3", faint="#8b949e", help="#3fb950", worlds=("#79b0ff", "#f0883e", "#d2a8ff")),
}
_MARKERS: Final = ("o", "s", "D")
_KINDS: Final = {
    "words": "good answers are usual ones", "letters": "good answers are unusual ones", "lists": "endings are fragile",
}  # fmt: skip


def save_figures(table: Mapping[str, Any], folder: Path) -> None:
    """Write `crossing` for light pages and `crossing-dark` for dark ones, as png and svg on nothing.

    What a file shows stands in it as its description, so that a file can be held to its table.
    """
    for name, theme in THEMES.items():
        with rc_context({"savefig.transparent": True, "text.color": theme.ink, "font.size": 10}):
            save_figure(crossing_figure(table, theme), folder / name, description=crossing_description(table))


def crossing_title(table: Mapping[str, Any]) -> str:
    """Say what the figure shows, as far as the intervals of the poorest and the best answers allow."""
    rows = drawn_rows(table)
    turning = [world for world, points in rows.items() if turns(points)]
    if not turning:
        return "SFT on hard pairs less dropping them, by how good their answers are"
    claim = "SFT on hard pairs turns from harm to help as their answers get better"
    if len(turning) == len(rows):
        return claim
    return f"{claim}:\nin {listed(turning)}, not in {listed([world for world in rows if world not in turning])}"


def crossing_description(table: Mapping[str, Any]) -> str:
    """Say all that is drawn."""
    worlds = [
        f"{world}: " + ", ".join(f"{_written(point)} at {signed(point.height, 2)}" for point in points)
        for world, points in drawn_rows(table).items()
    ]
    title = crossing_title(table).replace("\n", " ")
    return f"{title} ({_bars(table)}). {'; '.join(worlds)}"


def drawn_rows(table: Mapping[str, Any]) -> dict[str, list[CrossingPoint]]:
    """Return the crossing of those worlds in which the baseline clearly gains; elsewhere there is no unit."""
    return {
        world: points
        for world, points in crossing_rows(table).items()
        if all(point.gain is not None and point.climb > 0 for point in points)
    }


def crossing_figure(table: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a line for each world, with the interval of every cell; of labels that are a coin's, or the most noisy."""
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    axes.patch.set_alpha(0)
    rows, arm, against = drawn_rows(table), table["crossing"]["arm"], table["crossing"]["against"]
    for world, points in rows.items():
        number = list(_KINDS).index(world)
        heights, effects = [point.height for point in points], [point.of_gain or (0, 0, 0) for point in points]
        reach = [[middle - low for middle, low, _ in effects], [high - middle for middle, _, high in effects]]
        axes.errorbar(
            heights, [middle for middle, _, _ in effects], yerr=reach, label=f"{world}: {_KINDS[world]}", capsize=2.5,
            color=theme.worlds[number], marker=_MARKERS[number], markersize=5,
            linewidth=1.8, elinewidth=1.1,
        )  # fmt: skip
    _draw_landmarks(axes, theme)
    axes.legend(frameon=False, loc="lower right", labelcolor="linecolor")
    axes.set_xlabel("how good the hard pairs' answers are", color=theme.ink)
    axes.set_ylabel(f"SFT less dropping, % of {table['baseline']}'s gain", color=theme.ink)
    axes.tick_params(colors=theme.ink, length=3)
    axes.set_xticks([-1, 0], ["as good as\nthe start", "as good as the policy\nof the other pairs"])
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    figure.suptitle(crossing_title(table), fontsize=11.5, fontweight="bold", x=0.01, ha="left", color=theme.ink)
    axes.set_title(f"reward of “{arm}” less “{against}”; {_bars(table)}", fontsize=9, loc="left", color=theme.faint)
    return figure


def _draw_landmarks(axes: Axes, theme: Theme) -> None:
    """Draw where nothing is gained, what is as good as the start and as the policy, and the side of help."""
    low, high = axes.get_ylim()
    axes.axhspan(0, high, color=theme.help, alpha=0.08, linewidth=0, zorder=0)
    axes.set_ylim(low, high)
    axes.axhline(0, color=theme.faint, linewidth=1.0, zorder=0)
    for height in (-1, 0):
        axes.axvline(height, color=theme.faint, linewidth=0.9, linestyle=(0, (3, 3)), zorder=0)
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    for text, place, colour in (("SFT helps", "bottom", theme.help), ("SFT harms", "top", theme.faint)):
        axes.annotate(
            text, (0.012, 0), xycoords=beside, xytext=(0, 4 if place == "bottom" else -4), textcoords="offset points",
            va=place, color=colour, fontsize=9,
        )  # fmt: skip


def _bars(table: Mapping[str, Any]) -> str:
    return f"bars: 95 % intervals over {len(table['seeds'])} seeds"


def _written(point: CrossingPoint) -> str:
    estimate, low, high = point.of_gain or (0.0, 0.0, 0.0)
    return f"{signed(estimate, 1)} % ({signed(low, 1)} to {signed(high, 1)})"
