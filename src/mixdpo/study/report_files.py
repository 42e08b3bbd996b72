"""What a study leaves beside its results: its tables as files, and a figure of effects and displacement."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.common.figure_files import save_figure
from mixdpo.common.files import atomic_path
from mixdpo.common.tables import as_latex, as_markdown
from mixdpo.study.analysis import Analysis, analyse
from mixdpo.study.study_results import START, Results
from mixdpo.study.study_tables import MEASURES, ranked, result_tables, runs_table
from mixdpo.study.task import HELD_OUT_BUCKETS

_GREY, _BLUE = "#999999", "#0072B2"
_COLOURS = {"easy": "#009E73", "middle": "#E69F00", "hard": "#D55E00", "tie": _GREY}


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


def study_figure(analysis: Analysis) -> Figure:
    """Draw one row per arm, the best on top."""
    arms = [arm for arm in reversed(ranked(analysis)) if arm.by_seed]
    moved = bool(analysis.displacement)
    figure = Figure(figsize=(11.5 if moved else 8, 1.4 + 0.34 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=[3, 2], sharey=True) if moved else [figure.subplots()]
    gains: Axes = axes[0]
    gains.set_yticks(range(len(arms)), [arm.name for arm in arms])
    baseline = next((arm.means[analysis.primary] for arm in arms if arm.name == analysis.baseline), None)
    for row, arm in enumerate(arms):
        gains.plot(arm.by_seed, [row] * len(arm.by_seed), "|", color=_GREY, markersize=9)
        mean, effect = arm.means[analysis.primary], arm.against_baseline
        if effect is not None and baseline is not None:
            # The interval of the difference, put at the baseline's line: clear of the line means clear of zero.
            low, mean, high = baseline + effect.low, baseline + effect.estimate, baseline + effect.high
            colour = _BLUE if effect.p_adjusted < 1 - effect.level else "black"
            gains.plot([low, high], [row, row], color=colour, linewidth=1.6)
            gains.plot([mean], [row], "o", color=colour, markersize=5)
        else:
            gains.plot([mean], [row], "D", color=_GREY if arm.name == START else "black", markersize=5)
    if baseline is not None:
        gains.axvline(baseline, color=_GREY, linewidth=0.8)
    gains.set_xlabel(MEASURES.get(analysis.primary, analysis.primary))
    gains.set_title(
        f"bars: {100 * analysis.runs['study']['level']:.0f} % interval of the difference from {analysis.baseline}\n"
        "ticks: seeds; blue: clear of zero after Holm's correction",
        fontsize="small", loc="left",
    )  # fmt: skip
    if moved:
        _draw_displacement(axes[1], analysis, [arm.name for arm in arms])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_displacement(axis: Axes, analysis: Analysis, names: list[str]) -> None:
    present = [name for name in HELD_OUT_BUCKETS if any(one.bucket == name for one in analysis.displacement)]
    for one in analysis.displacement:
        if one.arm not in names:
            continue
        height = names.index(one.arm) + 0.22 * (1 - present.index(one.bucket))
        for side, marker in ((one.chosen, "o"), (one.rejected, "x")):
            axis.plot([side.estimate], [height], marker, color=_COLOURS[one.bucket], markersize=4)
        axis.plot(
            [one.chosen.estimate, one.rejected.estimate], [height, height], color=_COLOURS[one.bucket], linewidth=0.6
        )
    for bucket in present:
        axis.plot([], [], "o", color=_COLOURS[bucket], markersize=4, label=bucket)
    axis.plot([], [], "o", color="black", markersize=4, label="chosen")
    axis.plot([], [], "x", color="black", markersize=4, label="rejected")
    axis.axvline(0, color=_GREY, linewidth=0.8)
    axis.set_xlabel("nats per held-out answer, against the start")
    axis.set_title("change of log-probability", fontsize="small", loc="left")
    axis.legend(fontsize="x-small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
