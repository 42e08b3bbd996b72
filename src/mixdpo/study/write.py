"""What a study leaves beside its results: tables and the figure."""

from __future__ import annotations

from pathlib import Path

from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import atomic_path
from mixdpo.common.tables import as_latex, as_markdown
from mixdpo.study.analysis import Analysis, analyse
from mixdpo.study.figures import study_figure
from mixdpo.study.results import Results
from mixdpo.study.tables import result_tables, runs_table


def write_report(results: Results, folder: Path) -> Analysis:
    """Write `tables.md`, `tables.tex`, `study.png` and `study.svg`."""
    analysis = analyse(results)
    tables = [*result_tables(analysis), runs_table(analysis)]
    texts = {
        "tables.md": "\n".join(f"{table.title}\n\n{as_markdown(table)}" for table in tables),
        "tables.tex": "% needs \\usepackage{booktabs}\n\n" + "\n".join(map(as_latex, tables)),
    }
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    save_figure(study_figure(analysis), folder / "study")
    return analysis
