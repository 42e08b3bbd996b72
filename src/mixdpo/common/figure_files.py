"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mixdpo.common.files import atomic_path


def save_figure(
    figure: Figure, stem: Path, endings: tuple[str, ...] = ("png", "svg"), description: str | None = None
) -> None:
    """Write a figure as `<stem>.<ending>` for each ending; png for the screen, svg for the web, pdf for a paper.

    A `description` of what it shows is kept within png and svg.

    Equal figures make equal files: there is no date in them, and the ids within an svg are not random.
    """
    FigureCanvasAgg(figure)
    for ending in endings:
        metadata = {
            "png": {"Description": description} if description else {},
            "svg": {"Date": None, **({"Description": description} if description else {})},
            "pdf": {"CreationDate": None},
        }.get(ending)
        with (
            atomic_path(stem.with_name(f"{stem.name}.{ending}")) as temporary,
            rc_context({"svg.hashsalt": stem.name}),
        ):
            figure.savefig(temporary, dpi=120, metadata=metadata)
