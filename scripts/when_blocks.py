"""What the pages say of the map: tables, and sentences whose verdicts come from the intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from map_answers import (
    CLEAR,
    CellRow,
    Compared,
    Row,
    Table,
    clear_signs,
    compare,
    is_tuned,
    is_usual,
    pooled,
    rewards,
    where,
    worlds,
)
from map_questions import (
    DROPPED,
    MIXED,
    PUBLISHED,
    claim_rows,
    label_costs,
    order_rows,
    questions,
    share_rows,
    usual_quality,
)  # fmt: skip
from mixdpo.common.tables import TextTable, as_markdown, one_line
from mixdpo.study.world.map_crossing import crossing_rows
from mixdpo.study.world.map_effects import PairedEffect, holm_within
from mixdpo.study.world.map_figure import crossing_title
from mixdpo.study.world.map_format import interval, listed, plain, signed
from mixdpo.study.world.map_settings import START
from when_likelihood import likelihood_block
from when_schedule import schedule_block
from when_ties import ties_block

ABOVE_ALL = "above all answers"
RESULTS = "../studies/maps/results"
WORDS = {1: "clearly better", 0: "not clear", -1: "clearly worse"}


def blocks(table: Table, likelihood: Mapping[str, Any]) -> dict[str, str]:
    """Return every generated part of the pages by its name; one "in short" is the first paragraph of another."""
    labels, shares = labels_block(table, likelihood), shares_block(table)
    return {
        "questions": questions_block(table),
        "made": made_block(table),
        "figure": figure_block(table),
        "break-even": break_even_block(table),
        "natural": natural_block(table),
        "theory": theory_block(table),
        "order": order_block(table),
        "schedule": schedule_block(table),
        "claims": world_block(table, [*question_rows(table), *claim_rows(table)]),
        "labels": labels,
        "labels in short": labels.partition("\n\n")[0],
        "shares": shares,
        "shares in short": shares.partition("\n\n")[0],
        "breaks": breaks_block(table),
        "treatments": treatments_block(table),
        "likelihood": likelihood_block(likelihood),
        "ties": ties_block(table),
    }


def questions_block(table: Table) -> str:
    """The six rows of the README."""
    rows = questions(table)
    effects = [pooled(row) for row in rows]
    adjusted = holm_within({row.name: effect for row, (effect, _) in zip(rows, effects, strict=True)})
    shown = []
    for row, (effect, share), signs in zip(rows, effects, clear_signs(rows), strict=True):
        ends = [signed(value) for value in (effect.low, effect.high)]
        shown.append(
            (
                row.name, row.about, _worlds(table, row), signed(effect.estimate),
                " to ".join(ends), "-" if share is None else f"{signed(share, 0)} %",
                _clear(signs, adjusted[row.name] < CLEAR),
            )
        )  # fmt: skip
    headings = ("question", "compared", "worlds", "difference", "interval", "of DPO's gain", "clear")
    return as_markdown(TextTable("", headings, shown, names=3)).rstrip()


def _worlds(table: Table, row: Row) -> str:
    names = [one.world for one in row.compared]
    return f"all {len(names)}" if len(names) == len(worlds(table)) > 1 else listed(names)


def _clear(signs: Mapping[str, int], is_clear: bool) -> str:
    """Say whether a mean over worlds is clear, and in which worlds the effect is; of either sign where it is so."""
    up, down = ([world for world, sign in signs.items() if sign == one] for one in (1, -1))
    if up and down:
        return f"depends: + in {listed(up)}, − in {listed(down)}"
    found = up or down
    if not is_clear or not found:
        return f"only in {listed(found)}" if found else "no"
    return "yes" if len(found) == len(signs) else f"yes, in {listed(found)}"


def made_block(table: Table) -> str:
    """How large the map is, and what it can see."""
    runs, seeds = table["runs"], len(table["seeds"])
    share = [
        100 * one["detectable"] / cell["gain"]["estimate"]
        for cell in table["cells"] for one in cell["effects"].values() if "of_gain" in one
    ]  # fmt: skip
    middle, most = np.quantile(share, [0.5, 0.9])
    return (
        f"{runs['final'] + runs['tuning']:,} policies in {len(table['cells'])} cells of {len(worlds(table))} worlds "
        f"({listed(worlds(table))}), {len(table['arms'])} treatments, {seeds} seeds in every cell, "
        f"{runs['hours']:.1f} core-hours. The smallest effect that a cell finds with 80 % power is {middle:.0f} % of "
        f"{table['baseline']}'s gain in the median, and {most:.0f} % in nine of ten. Intervals are 95 %; *clear* "
        "means p < 0.05 after Holm's correction within a table. Beside this page lie [all effects]"
        f"({RESULTS}/map.md), [all cells]({RESULTS}/cells.md) and [the table]({RESULTS}/map.json) they are made from."
    )


def _verdicts(signs: Mapping[str, int], words: Mapping[int, str] = WORDS, preposition: str = "in") -> str:
    """Say of which names what is clear, such as "clearly better in words, not clear in lists"."""
    found = {word: [name for name, one in signs.items() if one == sign] for sign, word in words.items()}
    return ", ".join(f"{word} {preposition} {listed(names)}" for word, names in found.items() if names)


def figure_block(table: Table) -> str:
    """The figure for light and dark pages."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{RESULTS}/crossing-dark.svg">\n'
        f'  <img src="{RESULTS}/crossing.svg" alt="{one_line(crossing_title(table))}" width="720">\n</picture>'
    )


def break_even_block(table: Table) -> str:
    """From which quality on SFT pays, on the scale of the figure."""
    cells = {(cell["world"], cell["name"]): cell for cell in table["cells"]}
    rows, found = [], []
    for row in table["break_even"]:
        of_row = [cells[row["world"], name] for name in row["cells"]]
        start = float(np.mean([cell["arms"][START]["means"]["reward"] for cell in of_row]))
        climb, surplus = row["level"] - start, row["surplus"]
        if climb > 0 and surplus["estimate"] is not None:
            found.append(surplus["estimate"] / climb)
        written = _heights(surplus, climb) if climb > 0 else "-"
        right, levels = f"{row['hard_labels_right']:g}", (plain(value, 2) for value in (start, row["level"]))
        rows.append((row["world"], right, _rate_of(row), *levels, written))
    headings = ("world", "P", "learning rate", "start", "policy of the others", "break-even")
    text = as_markdown(TextTable("", headings, rows, names=3)).rstrip()
    if not found:
        return text
    ends = " and ".join(signed(end, 2) for end in (min(found), max(found)))
    near = sum(abs(height) < 0.5 for height in found)
    beyond = sum(row[-1] == ABOVE_ALL for row in rows)
    return (
        f"Of {len(rows)} rows of cells SFT on hard pairs breaks even in {len(found)}, between {ends} on the figure's "
        f"scale (0: as good as the policy of the other pairs, \u22121: as good as the start); in {near} of them "
        f"within half of that way from the policy. Rows in which even the best answers do not pay: {beyond}.\n\n{text}"
    )


def _rate_of(place: Mapping[str, Any]) -> str:
    """Return the learning rate that a cell or a row of cells has of its own."""
    return "tuned" if place["learning_rate"] is None else f"{place['learning_rate']:g}"


def _heights(found: Mapping[str, Any], climb: float) -> str:
    if found["estimate"] is None:
        return "below all answers" if found["below"] > found["above"] else ABOVE_ALL
    ends = [
        word if found[name] is None else signed(found[name] / climb, 2)
        for name, word in (("low", "below all"), ("high", "above all"))
    ]
    return f"{signed(found['estimate'] / climb, 2)} ({ends[0]} to {ends[1]})"


def order_block(table: Table) -> str:
    """Order, rates and routing apart: one sentence with the verdicts, and the table."""
    rows = order_rows(table)
    order, rates, rest, _, routed, *_ = [*zip(rows, clear_signs(rows), strict=True)]
    sentence = "; ".join(
        (
            f"DPO on sorted pairs less shuffled ones: {_verdicts(order[1])}",
            f"shuffled ones with a sorted run's learning rates as weights: {_verdicts(rates[1])}",
            f"what the order adds to these rates: {_verdicts(rest[1])}",
            f"what SFT on the hard pairs adds to a sorted run: {_verdicts(routed[1])}",
        )
    )
    return f"{sentence}.\n\n{world_block(table, rows)}"


def question_rows(table: Table) -> list[Row]:
    """The README's questions, named by what is compared; the cost of labels has a table of its own."""
    poorest, best, *others = questions(table)[:-1]
    ends = [(poorest, "poorest answers: "), (best, "best answers: "), *((row, "") for row in others)]
    return [Row(name=f"{where_}{row.about}", compared=row.compared) for row, where_ in ends]


def natural_block(table: Table) -> str:
    """Pairs as they arise in practice: what is measured of them, and what their hard part is worth."""
    rows = []
    for cell in where(table, lambda cell: cell["kind"] == "natural" and {MIXED, DROPPED} <= cell["arms"].keys()):
        start, level = (cell["arms"][arm]["means"]["reward"] for arm in (START, DROPPED))
        height = (cell["measured"]["hard_quality"] - level) / (level - start)
        compared = [
            compare(table, [cell], *arms)[0]
            for arms in ((MIXED, DROPPED), (PUBLISHED, DROPPED), (PUBLISHED, table["baseline"]))
        ]
        rows.append(
            (
                cell["world"], cell["source"], f"{cell['rater_noise']:g}", _rate_of(cell),
                plain(cell["measured"]["hard_right"], 2), signed(height, 2), *(_entry(one, 0) for one in compared),
            )
        )  # fmt: skip
    headings = (
        "world", "answers by", "rater's noise", "learning rate", "P", "quality", "SFT mixed in − dropped, %",
        "MixDPO − dropped, %", "MixDPO − DPO, %",
    )  # fmt: skip
    return as_markdown(TextTable("", headings, rows, names=4)).rstrip()


def theory_block(table: Table) -> str:
    """How well the effects of SFT lie on a line in the surplus of quality."""
    correlations = []
    for world, points in crossing_rows(table).items():
        found = np.corrcoef([point.surplus for point in points], [point.effect.estimate for point in points])
        correlations.append(f"{found[0, 1]:.2f} in {world}")
    return (
        "In the cells of the figure the effect of SFT follows the surplus of quality over the policy of the other "
        f"pairs with a correlation of {listed(correlations)}."
    )


def world_block(table: Table, rows: Sequence[Row]) -> str:
    """A table of comparisons by world, in per cent of DPO's gain; bold where clear."""
    names = worlds(table)
    shown = []
    for row, signs in zip(rows, clear_signs(rows), strict=True):
        by_world = {one.world: one for one in row.compared}
        shown.append((row.name, *(_entry(by_world.get(world), signs.get(world, 0)) for world in names)))
    return _with_bold(TextTable("", ("in % of DPO's gain", *names), shown))


def _entry(one: Compared | None, sign: int) -> str:
    if one is None:
        return ""
    if one.share is None:
        text = f"{signed(one.effect.estimate)} in reward"
    else:
        text = interval((one.share.estimate, one.share.low, one.share.high), 0)
    return f"**{text}**" if sign else text


def _with_bold(table: TextTable) -> str:
    return as_markdown(table).replace("\\*\\*", "**").rstrip()


def labels_block(table: Table, likelihood: Mapping[str, Any]) -> str:
    """What wrong labels cost, beside how much larger the margins of easy pairs are."""
    hard, easy, less = ({one.world: one for one in row.compared} for row in label_costs(table))
    margins = {one["world"]: np.mean(one["easy_margin"]) / np.mean(one["margin"]) for one in likelihood["worlds"]}
    (signs,) = clear_signs([Row(name="", compared=tuple(less.values()))])
    rows = []
    for world in less:
        of_hard, of_easy = hard[world].effect, easy[world].effect
        # Where the cost on hard pairs is not clear of zero, a ratio to it says nothing.
        ratio = f"{of_easy.estimate / of_hard.estimate:.1f}" if of_hard.low > 0 else "-"
        of_margins = f"{margins[world]:.1f}" if world in margins else "-"
        rows.append((world, _cost(of_hard), _cost(of_easy), ratio, of_margins))
    headings = ("world", "on hard pairs", "on easy pairs", "times as much", "easy margins, times as large")
    more = {1: "clearly more", 0: "not clearly more", -1: "clearly less"}
    advice = " So check the labels of large margins first." if set(signs.values()) == {1} else ""
    text = as_markdown(TextTable("", headings, rows)).rstrip()
    return (
        f"On easy pairs, compared with hard ones, a wrong label costs {_verdicts(signs, more)}.{advice}\n\n"
        f"What DPO loses in reward by ten per cent of all pairs with a wrong label:\n\n{text}"
    )


def _cost(effect: PairedEffect) -> str:
    return interval((effect.estimate, effect.low, effect.high))


def shares_block(table: Table) -> str:
    """Dropping at equal epochs and at equal updates by the share of hard pairs, with what the smallest share makes."""
    rows = share_rows(table)
    updates = [row for row in rows if DROPPED in row.name]
    if not updates:
        return ""
    shares = [one.share for one in updates[0].compared if one.share is not None]
    size = listed([f"{interval((one.estimate, one.low, one.high), 0)} %" for one in shares])
    few = updates[0].name.partition(":")[0]
    text = f"With {few} pairs, dropping them at equal updates is worth {size} of DPO's gain." if size else ""
    return f"{text}\n\n{world_block(table, rows)}"


def breaks_block(table: Table) -> str:
    """Reward and endings of the main arms at the tuned and at a higher learning rate, where endings differ."""
    arms, parts = [START, table["baseline"], PUBLISHED, MIXED, DROPPED], []
    for world in worlds(table):
        cells = [
            cell for cell in where(table, lambda cell: cell["kind"] == "controlled")
            if cell["world"] == world and cell["hard_labels_right"] == 0.5 and cell["hard_share"] == 0.3
            and cell["hard_source"] == "writers" and cell["epochs"] == 1 and cell["easy_labels_right"] == 1.0
            and (_is_faster(cell, table) or (is_tuned(cell) and cell["hard_quality"] == usual_quality(table, world)))
        ]  # fmt: skip
        if any(_ends_vary(cell, arms) for cell in cells):
            parts += [_endings(table, world, [cell for cell in cells if cell["learning_rate"] is not None])]
            headings = (world, *(f"quality {cell['hard_quality']:g}, {_rate(cell)}" for cell in cells))
            shown = [(arm, *(_reward_and_ends(cell, arm) for cell in cells)) for arm in arms]
            parts.append(as_markdown(TextTable("", headings, shown)).rstrip())
    return "\n\n".join(parts) or "In no world do endings differ by more than five per cent of the answers."


def _is_faster(cell: CellRow, table: Table) -> bool:
    """Whether a cell has a learning rate of its own, and one above the tuned."""
    if is_tuned(cell):
        return False
    rates = [
        other["arms"][table["baseline"]]["learning_rate"] for other in where(table, is_usual)
        if other["world"] == cell["world"]
    ]  # fmt: skip
    return bool(cell["learning_rate"] > max(rates))


def _endings(table: Table, world: str, cells: Sequence[CellRow]) -> str:
    """Say what becomes of endings at another rate than the tuned one, and what SFT is worth there."""
    if not cells:
        return f"World `{world}`, reward and answers that end:"
    ended = {
        arm: np.mean([cell["arms"][arm]["means"]["finished"] for cell in cells]) for arm in (table["baseline"], MIXED)
    }
    rows = [Row(name=f"{cell['hard_quality']:g}", compared=compare(table, [cell], MIXED, DROPPED)) for cell in cells]
    signs = {row.name: sign[world] for row, sign in zip(rows, clear_signs(rows), strict=True)}
    shares = listed([f"{100 * share:.0f} % of {arm}'s" for arm, share in ended.items()])
    return (
        f"World `{world}`, at a {_rate(cells[0])}: {shares} answers end. SFT mixed in less dropped is "
        f"{_verdicts(signs, preposition='at quality')}."
    )


def _rate(cell: CellRow) -> str:
    return "tuned rates" if is_tuned(cell) else f"rate of {_rate_of(cell)}"


def _reward_and_ends(cell: Mapping[str, Any], arm: str) -> str:
    if arm not in cell["arms"]:
        return ""
    means = cell["arms"][arm]["means"]
    return f"{plain(means['reward'], 2)}, {100 * means['finished']:.0f} % end"


def _ends_vary(cell: Mapping[str, Any], arms: Sequence[str]) -> bool:
    ended = [cell["arms"][arm]["means"]["finished"] for arm in arms if arm in cell["arms"]]
    return max(ended) - min(ended) > 0.05


def treatments_block(table: Table) -> str:
    """Every treatment over its cells: how often it is clearly better or worse than DPO, and how much it spreads."""
    baseline = table["baseline"]
    rows = []
    for arm in (one for one in table["arms"] if one != baseline):
        cells = where(table, lambda cell, arm=arm: "of_gain" in cell["effects"].get(arm, {}))
        if not cells:
            continue
        effects = [cell["effects"][arm] for cell in cells]
        clear = [int(np.sign(one["estimate"])) for one in effects if one["p_adjusted"] < CLEAR]
        shares = [one["of_gain"][0] for one in effects]
        mean, spread, worst = float(np.mean(shares)), *_steadiness(cells, arm, baseline)
        counts = map(str, (len(cells), clear.count(1), clear.count(-1)))
        sizes = (signed(mean, 0), signed(min(shares), 0), signed(worst, 0), plain(spread, 2))
        rows.append((mean, clear.count(-1), (arm, *counts, *sizes)))
    rows.sort(key=lambda row: -row[0])
    never = [f"*{texts[0]}*" for _, worse, texts in rows if not worse]
    headings = (
        "treatment", "cells", "clearly better", "clearly worse", "mean, % of gain", "worst cell, %", "worst run, %",
        "spread / DPO's",
    )  # fmt: skip
    text = as_markdown(TextTable("", headings, [texts for *_, texts in rows])).rstrip()
    return f"Never clearly worse than {baseline}: {listed(never) or 'none'}.\n\n{text}"


def _steadiness(cells: Sequence[CellRow], arm: str, baseline: str) -> tuple[float, float]:
    """Return the median of an arm's spread over seeds to the baseline's, and its worst run less the baseline's mean.

    The latter in per cent of the baseline's gain: a run that broke is far below.
    """
    spreads = [cell["arms"][arm]["deviation"] / cell["arms"][baseline]["deviation"] for cell in cells]
    worst = [
        100 * (rewards(cell, arm).min() - rewards(cell, baseline).mean()) / cell["gain"]["estimate"] for cell in cells
    ]
    return float(np.median(spreads)), float(min(worst))
