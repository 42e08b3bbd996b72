"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mixdpo.io import atomic_path


def save_figure(figure: Figure, stem: Path, endings: tuple[str, ...] = ("png", "svg")) -> None:
    """Write a figure as `<stem>.<ending>` for each ending; png for the screen, svg for the web, pdf for a paper."""
    FigureCanvasAgg(figure)
    for ending in endings:
        with atomic_path(stem.with_name(f"{stem.name}.{ending}")) as temporary:
            figure.savefig(temporary, dpi=120)
