"""What a study leaves beside its results: tables and the figure."""

from __future__ import annotations

from pathlib import Path

from mixdpo.io import atomic_path
from mixdpo.study.analysis import Analysis, analyse
from mixdpo.study.figures import save_study_figure
from mixdpo.study.results import Results
from mixdpo.study.tables import TABLES, caption, latex, markdown


def write_report(results: Results, folder: Path) -> Analysis:
    """Write `tables.md`, `tables.tex`, `study.png` and `study.svg`."""
    analysis = analyse(results)
    made = {name: make(analysis) for name, make in TABLES.items()}
    texts = {
        "tables.md": "\n\n".join(f"{caption(analysis, name)}\n\n{markdown(table)}" for name, table in made.items()),
        "tables.tex": "\n".join(latex(table, caption(analysis, name)) for name, table in made.items()),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    save_study_figure(analysis, folder / "study")
    return analysis
