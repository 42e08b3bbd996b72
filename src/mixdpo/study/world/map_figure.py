"""The figure of a map: SFT on hard pairs less dropping them, against how good their answers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure
from mixdpo.study.world.map_effects import PairedEffect
from mixdpo.study.world.map_table import crossing_rows


@dataclass(frozen=True)
class Theme:
    """Colours of one figure: text, lines beside the data, and a line for each world."""

    ink: str
    faint: str
    worlds: tuple[str, ...]


THEMES: Final = {
    "crossing": Theme(ink="#1f2328", faint="#8c959f", worlds=("#2f6fde", "#c2570c", "#1a7f37")),
    "crossing-dark": Theme(ink="#e6edf3", faint="#7d8590", worlds=("#79b0ff", "#f0883e", "#56d364")),
}
_MARKERS: Final = ("o", "s", "D")


def save_figures(table: Mapping[str, Any], folder: Path) -> None:
    """Write `crossing` for light pages and `crossing-dark` for dark ones, as png and svg on nothing."""
    for name, theme in THEMES.items():
        with rc_context({"savefig.transparent": True, "text.color": theme.ink, "font.size": 10}):
            save_figure(crossing_figure(table, theme), folder / name)


def crossing_figure(table: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a line for each world, with the interval of every cell; of labels that are a coin's, or the most noisy."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes: Axes = figure.subplots()
    axes.patch.set_alpha(0)
    arm, against = table["crossing"]["arm"], table["crossing"]["against"]
    for number, (world, cells) in enumerate(crossing_rows(table).items()):
        effects = [effect for _, effect in cells]
        surplus = [quality for quality, _ in cells]
        colour = theme.worlds[number % len(theme.worlds)]
        axes.errorbar(
            surplus, [one.estimate for one in effects], yerr=_reach(effects), color=colour, label=world, capsize=2.5,
            marker=_MARKERS[number % len(_MARKERS)], markersize=5, linewidth=1.6, elinewidth=1.0,
        )  # fmt: skip
    for line in (axes.axhline, axes.axvline):
        line(0, color=theme.faint, linewidth=0.9, zorder=0)
    axes.set_xlabel(f"quality of the hard pairs' answers, less the level of “{against}”", color=theme.ink)
    axes.set_ylabel(f"reward of “{arm}” less “{against}”", color=theme.ink)
    axes.tick_params(colors=theme.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title(
        f"bars: 95 % intervals over {len(table['seeds'])} seeds", fontsize="small", loc="left", color=theme.faint
    )
    return figure


def _reach(effects: list[PairedEffect]) -> list[list[float]]:
    return [[one.estimate - one.low for one in effects], [one.high - one.estimate for one in effects]]
