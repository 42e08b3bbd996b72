"""Draw the figure at the top of the README: what a plan does to pairs, and what each loss did to each third of them.

    python scripts/method_figure.py    # docs/images/method.png and .svg for light pages, method-dark.* for dark ones

The left half is a sketch. The right half is read from `studies/results/subsets/tables.md`, which the study
`studies/subsets.yaml` wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "studies/results/subsets/tables.md"
THIRDS = ("easy", "middle", "hard")
PAIRS, HARD = 30, 8  # bars of the sketch, and how many of them are routed to SFT
NUMBER = r"([+−][\d.]+)"


@dataclass(frozen=True)
class Theme:
    """Colours of one figure."""

    ink: str
    faint: str
    dpo: str
    sft: str


THEMES = {
    "method": Theme(ink="#1f2328", faint="#8c959f", dpo="#2f6fde", sft="#c2570c"),
    "method-dark": Theme(ink="#e6edf3", faint="#7d8590", dpo="#79b0ff", sft="#f0883e"),
}


def main() -> None:
    gains = read_gains(TABLES.read_text("utf-8"))
    for name, theme in THEMES.items():
        with rc_context({"font.size": 10, "savefig.transparent": True, "text.color": theme.ink}):
            figure = Figure(figsize=(10, 3.7), layout="constrained")
            sketch, measured = figure.subplots(1, 2, width_ratios=(1.35, 1))
            draw_plan(sketch, theme)
            draw_gains(measured, gains, theme)
            save_figure(figure, ROOT / "docs/images" / name)


def read_gains(tables: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return by loss and third the mean difference from the untrained model with its 95 % interval.

    Raises:
        ValueError: a row of the study's first table is missing or has another form.
    """
    gains = {}
    for loss in ("DPO", "SFT"):
        for third in THIRDS:
            row = next((line for line in tables.splitlines() if line.startswith(f"| {loss}, {third} third |")), "")
            interval = re.findall(rf"{NUMBER} \({NUMBER} to {NUMBER}\)", row)
            if len(interval) != 2:  # against the baseline, against the start
                raise ValueError(f"{TABLES}: no row with two differences for {loss}, {third} third")
            gain, low, high = (float(value.replace("−", "-")) for value in interval[1])
            gains[loss, third] = (gain, low, high)
    return gains


def draw_plan(axes: Axes, theme: Theme) -> None:
    place = np.arange(PAIRS)
    margins = 4 * (1 - place / PAIRS) ** 1.7 + 0.15
    hard = place >= PAIRS - HARD
    axes.bar(place[~hard], margins[~hard], width=0.8, color=theme.dpo)
    axes.bar(place[hard], margins[hard], width=0.8, color=theme.sft)
    edge = PAIRS - HARD - 0.5
    axes.plot([edge, edge], [0, 2.0], color=theme.ink, linestyle=(0, (4, 3)), linewidth=1)
    axes.text(edge, 2.05, "threshold", ha="center", va="bottom")
    axes.text(13.2, 3.5, "easy pairs: DPO", color=theme.dpo, ha="center", weight="bold", fontsize=12)
    axes.text(13.2, 3.08, "chosen above rejected", ha="center")
    axes.text(PAIRS - HARD / 2 + 0.3, 1.5, "hard pairs: SFT", color=theme.sft, ha="center", weight="bold", fontsize=12)
    axes.text(PAIRS - HARD / 2 + 0.3, 0.72, "imitate the\nchosen answer", ha="center")
    axes.annotate(
        "",
        xy=(PAIRS, -0.28),
        xytext=(-0.5, -0.28),
        annotation_clip=False,
        arrowprops={"arrowstyle": "->", "color": theme.ink},
    )
    axes.text(-0.5, -0.75, "trained first", ha="left")
    axes.text(PAIRS, -0.75, "trained last", ha="right")
    axes.set(ylim=(-0.9, 4.3), xlim=(-1.2, PAIRS + 2.4), xticks=[], yticks=[])
    axes.set_ylabel("margin of a pair", color=theme.ink)
    axes.set_title("The plan", color=theme.ink, loc="left", weight="bold")
    axes.spines[:].set_visible(False)
    axes.patch.set_alpha(0)


def draw_gains(axes: Axes, gains: dict[tuple[str, str], tuple[float, float, float]], theme: Theme) -> None:
    axes.axhline(0, color=theme.faint, linewidth=1)
    for loss, shift, colour in (("DPO", -0.13, theme.dpo), ("SFT", 0.13, theme.sft)):
        for at, third in enumerate(THIRDS):
            gain, low, high = gains[loss, third]
            axes.plot([at + shift] * 2, [low, high], color=colour, linewidth=2)
            axes.plot(at + shift, gain, "o", color=colour, markersize=7, label=loss if at == 0 else None)
    axes.legend(frameon=False, labelcolor=theme.ink, loc="upper right", ncols=2)
    axes.set(xlim=(-0.6, 2.6), ylim=(-0.42, 0.56), xticks=range(3), xticklabels=[f"{third} third" for third in THIRDS])
    axes.set_ylabel("gain in constraints met, of 3", color=theme.ink)
    axes.set_title("What each loss did to each third", color=theme.ink, loc="left", weight="bold")
    axes.tick_params(colors=theme.ink, length=0)
    axes.spines[:].set_visible(False)
    axes.patch.set_alpha(0)


if __name__ == "__main__":
    main()
