"""The report of a map as Markdown: the crossing, effects by world, and every cell with all that was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from mixdpo.common.files import atomic_path
from mixdpo.common.tables import TextTable, as_markdown, one_line
from mixdpo.study.world.map_crossing import crossing_of
from mixdpo.study.world.map_figure import crossing_title, save_figures
from mixdpo.study.world.map_format import effect_text, interval, p_text, plain, signed
from mixdpo.study.world.map_settings import START
from mixdpo.study.world.map_standing import CLEAR, standings

REPORT_FILE: Final = "map.md"
CELLS_FILE: Final = "cells.md"
_LIBRARIES: Final = ("torch", "transformers")


def write_map_report(table: Mapping[str, Any], folder: Path) -> None:
    """Write `map.md`, `cells.md` and, where cells differ in quality, the figure."""
    if table["break_even"]:
        save_figures(table, folder)
    for name, text in ((REPORT_FILE, report(table)), (CELLS_FILE, cells_page(table))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def report(table: Mapping[str, Any]) -> str:
    """Return the page that answers the map's questions, with links to what lies beside it."""
    parts = [
        f"# {table['title'] or table['name']}",
        _how(table),
        "## Where SFT on hard pairs crosses from harm to help",
        *([_picture(table)] if table["break_even"] else []),
        *_shown(crossing_table(table), break_even_table(table)),
    ]
    for world in dict.fromkeys(cell["world"] for cell in table["cells"]):
        parts += [
            f"## World `{world}`",
            *_shown(*(one(table, world) for one in (effects_table, standing_table, contrasts_table))),
        ]
    if table["own_settings"]:
        parts += ["## Each arm at its own best setting", *_shown(own_settings_table(table))]
    if notes := [f"- {name}: {note}." for name, note in table["arms"].items() if note]:
        parts += ["## Arms", "\n".join(notes)]
    return "\n\n".join(parts) + "\n"


def own_settings_table(table: Mapping[str, Any]) -> TextTable:
    """What every arm reaches where it is best, on the seeds of tuning."""
    rows = [
        (
            row["world"], row["cell"], row["arm"], f"{row['learning_rate']:g}", f"{row['beta']:g}",
            plain(row["reward"]),
            "" if row["effect"] is None or row["arm"] == table["baseline"] else interval(row["effect"]),
        )
        for row in table["own_settings"]
    ]  # fmt: skip
    headings = ("world", "cell", "arm", "rate", "beta", "reward", f"less {table['baseline']} at its best")
    title = "Mean rewards of the tuning seeds at the setting whose mean less three standard deviations is largest."
    return TextTable(title, headings, rows, names=3)


def cells_page(table: Mapping[str, Any]) -> str:
    """Return the page with every cell."""
    parts = [
        f"# {table['title'] or table['name']}: all cells",
        f"Means over seeds; differences from {table['baseline']} with 95 % intervals (paired t), p-values corrected "
        "by Holm within a cell. An effect of the size in the column *detectable* is found with 80 % power.",
    ]
    for cell in table["cells"]:
        parts += [f"## {cell['world']}: {cell['name']}", _pairs_of(table, cell), *_shown(cell_table(table, cell))]
    return "\n\n".join(parts) + "\n"


def crossing_table(table: Mapping[str, Any]) -> TextTable:
    """Every cell of set quality with the two arms of the crossing."""
    arm, against = table["crossing"]["arm"], table["crossing"]["against"]
    rows = []
    for cell in table["cells"]:
        if cell["kind"] == "controlled" and {arm, against} <= cell["arms"].keys():
            point = crossing_of(table, cell)
            effect = point.effect
            rows.append(
                (
                    cell["world"], cell["name"], plain(cell["arms"][START]["means"]["reward"]),
                    plain(cell["arms"][against]["means"]["reward"]), signed(point.surplus),
                    interval([effect.estimate, effect.low, effect.high]), plain(effect.detectable),
                )
            )  # fmt: skip
    headings = (
        "world", "cell", "start", against, "quality less that", f"{arm} less {against}", "detectable",
    )  # fmt: skip
    return TextTable("Rewards, and the difference of the two arms with its 95 % interval.", headings, rows, names=2)


def break_even_table(table: Mapping[str, Any]) -> TextTable:
    """Where the effect is zero, for every row of cells that differ in quality alone."""
    rows = [
        (
            row["world"],
            _row_name(row),
            plain(row["level"]),
            _break_even(row["quality"], plain),
            _break_even(row["surplus"], signed),
        )
        for row in table["break_even"]
    ]
    level = f"level of {table['crossing']['against']}"
    headings = ("world", "hard pairs", level, "quality at break-even", "less the level")
    title = "Quality from which SFT on hard pairs pays, with 95 % intervals (bootstrap over seeds)."
    return TextTable(title, headings, rows, names=2)


def effects_table(table: Mapping[str, Any], world: str) -> TextTable:
    """Arms by cell: difference from the baseline in per cent of its gain."""
    cells = [cell for cell in table["cells"] if cell["world"] == world]
    arms = [arm for arm in table["arms"] if arm != table["baseline"]]
    rows = [
        ("gain, reward", *(signed(cell["gain"]["estimate"]) for cell in cells)),
        *((arm, *(_of_gain(cell["effects"].get(arm)) for cell in cells)) for arm in arms),
    ]
    title = (
        f"Reward less that of {table['baseline']}, in per cent of its gain over the start ({table['baseline']}'s gain "
        "itself in the first line; in reward where it does not clearly gain). Bold: clear after Holm's correction in "
        "its cell."
    )
    return TextTable(title, ("arm", *(cell["name"] for cell in cells)), rows)


def standing_table(table: Mapping[str, Any], world: str) -> TextTable:
    """Arms by the share of cells in which none is clearly better."""
    rows = [
        (
            one.arm, str(one.cells), str(one.level), plain(one.short, 0), f"{plain(one.worst, 0)} ({one.worst_cell})",
        )
        for one in standings(table, [cell for cell in table["cells"] if cell["world"] == world])
    ]  # fmt: skip
    title = (
        "Arms that are best or level with it: cells in which no other is clearly better (Holm's correction), and "
        f"how far the arm is behind the highest mean of a cell, in per cent of {table['baseline']}'s gain there."
    )
    return TextTable(title, ("arm", "cells", "level", "behind, mean", "behind, most"), rows)


def contrasts_table(table: Mapping[str, Any], world: str) -> TextTable:
    """The planned contrasts by cell, in reward."""
    cells = [cell for cell in table["cells"] if cell["world"] == world]
    names = list(dict.fromkeys(name for cell in cells for name in cell["contrasts"]))
    rows = [(cell["name"], *(effect_text(cell["contrasts"].get(name)) for name in names)) for cell in cells if names]
    return TextTable("Planned contrasts, in reward, with 95 % intervals.", ("cell", *names), rows)


def cell_table(table: Mapping[str, Any], cell: Mapping[str, Any]) -> TextTable:
    """All arms of a cell, the best first."""
    ranked = sorted(cell["arms"].items(), key=lambda item: -item[1]["means"]["reward"])
    headings = (
        "arm", "rate", "beta", "reward", f"less {table['baseline']}", "% of gain", "p (Holm)", "detectable", "sd",
        "greedy", "ended", "tokens", "entropy",
    )  # fmt: skip
    rows = []
    for name, arm in ranked:
        effect, means = cell["effects"].get(name), arm["means"]
        rows.append(
            (
                name,
                *("" if arm[key] is None else f"{arm[key]:g}" for key in ("learning_rate", "beta")),
                plain(means["reward"]),
                effect_text(effect),
                "" if effect is None or "of_gain" not in effect else signed(effect["of_gain"][0], 0),
                "" if effect is None else p_text(effect["p_adjusted"]),
                "" if effect is None else plain(effect["detectable"]),
                plain(arm["deviation"]),
                plain(means["greedy"]),
                "-" if means["finished"] is None else f"{means['finished']:.0%}",
                plain(means["tokens"], 1),
                plain(means["entropy"], 2),
            )
        )
    return TextTable("", headings, rows)


def _how(table: Mapping[str, Any]) -> str:
    seeds, runs = len(table["seeds"]), table["runs"]
    effects = [(cell, one) for cell in table["cells"] for one in cell["effects"].values()]
    detectable = [one["detectable"] for _, one in effects]
    of_gain = [100 * one["detectable"] / cell["gain"]["estimate"] for cell, one in effects if "of_gain" in one]
    middle, most = np.quantile(detectable, [0.5, 0.9])
    share = f", or {np.median(of_gain):.1f} % of {table['baseline']}'s gain" if of_gain else ""
    made = ", ".join(f"{name} {table['versions'][name]}" for name in _LIBRARIES if name in table["versions"])
    return (
        f"{runs['final']:,} final runs and {runs['tuning']:,} trials of {table['pairs']:,} pairs each, {seeds} seeds "
        f"in every cell, {runs['hours']:.1f} core-hours{f' ({made})' if made else ''}. Arms are compared at the same "
        f"seed; intervals are Student's over seeds. With 80 % power a comparison with {table['baseline']} finds "
        f"{plain(middle)} in reward (the median{share}; {plain(most)} in nine of ten). "
        f"Every cell with endings, length, entropy and greedy answers: [{CELLS_FILE}]({CELLS_FILE})."
    )


def _picture(table: Mapping[str, Any]) -> str:
    return (
        '<picture><source media="(prefers-color-scheme: dark)" srcset="crossing-dark.svg">'
        f'<img alt="{one_line(crossing_title(table))}" src="crossing.svg" width="720"></picture>'
    )


def _pairs_of(table: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    measured = cell["measured"]
    return (
        f"{table['baseline']} gains {effect_text(cell['gain'])}. Chosen answers of hard pairs have a reward of "
        f"{plain(measured['hard_quality'])}; {measured['hard_right']:.0%} of their labels are right, and "
        f"{measured['easy_right']:.0%} of the others'."
    )


def _shown(*tables: TextTable) -> list[str]:
    """Return tables that have rows as Markdown under their titles; bold marks stay what they are."""
    shown = []
    for table in tables:
        if table.rows:
            text = as_markdown(table).replace("\\*\\*", "**").rstrip()
            shown += [table.title, text] if table.title else [text]
    return shown


def _row_name(row: Mapping[str, Any]) -> str:
    parts = [f"P {row['hard_labels_right']:g}", f"{row['hard_share']:.0%} hard"]
    parts += ["own answers"] if row["hard_source"] == "own" else []
    parts += [f"{row['epochs']} epochs"] if row["epochs"] > 1 else []
    parts += [f"rate {row['learning_rate']:g}"] if row["learning_rate"] is not None else []
    return ", ".join(parts)


def _break_even(found: Mapping[str, Any], write: Callable[[float], str]) -> str:
    if found["estimate"] is None:
        return "below all" if found["below"] > found["above"] else "above all"
    low = "below all" if found["low"] is None else write(found["low"])
    high = "above all" if found["high"] is None else write(found["high"])
    return f"{write(found['estimate'])} ({low} to {high})"


def _of_gain(effect: Mapping[str, Any] | None) -> str:
    if effect is None:
        return ""
    text = signed(effect["of_gain"][0], 0) if "of_gain" in effect else f"{signed(effect['estimate'])} in reward"
    return f"**{text}**" if effect["p_adjusted"] < CLEAR else text
