"""The questions that the project asks of its map: which arms are compared, in which cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from map_answers import CellRow, Compared, Row, Table, compare, compared, is_tuned, is_usual, rewards, where, worlds
from mixdpo.study.world.map_crossing import crossing_cells

DROPPED, EPOCHS = "dropped, equal updates", "dropped, equal epochs"
MIXED, PUBLISHED, SORTED, RATE = "SFT mixed in", "MixDPO as published", "sorted", "rate-weighted"
BETTER, SMOOTHED = "SFT on better answers", "smoothed by P"


def questions(table: Table) -> list[Row]:
    """Return the six questions of the README with their answers."""
    crossing = crossing_cells(table)
    poorest, best = ([cells[end] for cells in crossing.values()] for end in (0, -1))
    tied, baseline = [cell for cells in crossing.values() for cell in cells], table["baseline"]
    tuned = where(table, is_tuned)
    compared_arms = (
        ("Does SFT on hard pairs help where their answers are poorest?", "SFT mixed in − dropped",
         poorest, MIXED, DROPPED),
        ("And where they are best?", "SFT mixed in − dropped", best, MIXED, DROPPED),
        ("Is it worth dropping pairs whose labels are a coin's?", "dropped, equal updates − DPO",
         tied, DROPPED, baseline),
        ("Is MixDPO as published better than DPO?", "MixDPO − DPO", tuned, PUBLISHED, baseline),
        ("Is it more than its order?", "MixDPO − DPO sorted alike", tuned, PUBLISHED, SORTED),
    )  # fmt: skip
    return [
        *(
            Row(name=name, about=about, compared=compare(table, cells, arm, against))
            for name, about, cells, arm, against in compared_arms
        ),
        Row(
            name="Does a wrong label cost more on easy pairs than on hard ones?",
            about="DPO's loss per 10 % of labels, easy − hard",
            compared=tuple(label_costs(table)[-1].compared),
        ),
    ]


def label_costs(table: Table) -> list[Row]:
    """Return what DPO loses by wrong labels on hard pairs, on the others, and by how much more on these.

    In reward per ten per cent of all pairs, by cells that differ in these labels alone.
    """
    found: dict[str, list[Compared]] = {"hard": [], "easy": [], "easy less hard": []}
    for world in worlds(table):
        cells = labels_cells(table, world)
        if cells is None:
            continue
        right, hard_wrong, easy_wrong = cells
        hard = _cost(table, right, hard_wrong, "hard_right", right["hard_share"])
        easy = _cost(table, right, easy_wrong, "easy_right", 1 - right["hard_share"])
        for name, costs in (("hard", hard), ("easy", easy), ("easy less hard", easy - hard)):
            found[name].append(compared(table, world, costs, [right]))
    return [Row(name=name, compared=tuple(ones)) for name, ones in found.items()]


def labels_cells(table: Table, world: str) -> tuple[CellRow, CellRow, CellRow] | None:
    """Return cells of a world with all labels right, with a coin's on hard pairs, and with some wrong on others."""
    usual = [cell for cell in where(table, is_usual) if cell["world"] == world]
    for cell in where(table, lambda cell: cell["world"] == world and cell.get("easy_labels_right", 1.0) < 1.0):
        alike = [
            one for one in usual
            if all(one[axis] == cell[axis] for axis in ("hard_quality", "hard_share"))
        ]  # fmt: skip
        by_label = {one["hard_labels_right"]: one for one in alike}
        if cell["hard_labels_right"] == 1.0 and is_tuned(cell) and {0.5, 1.0} <= by_label.keys():
            return by_label[1.0], by_label[0.5], cell
    return None


def _cost(table: Table, right: CellRow, wrong: CellRow, share_right: str, share: float) -> np.ndarray:
    lost = rewards(right, table["baseline"]) - rewards(wrong, table["baseline"])
    tenths = 10 * share * (right["measured"][share_right] - wrong["measured"][share_right])
    return lost / tenths


def order_rows(table: Table) -> list[Row]:
    """Return what order is worth, what the learning rates are worth that it gives, and what is left of MixDPO."""
    cells, baseline = where(table, is_tuned), table["baseline"]
    return [
        Row(name=name, compared=compare(table, cells, arm, against))
        for name, arm, against in (
            ("sorted − DPO", SORTED, baseline),
            ("shuffled with a sorted run's rates as weights − DPO", RATE, baseline),
            ("sorted − those weights", SORTED, RATE),
            ("hard to easy − DPO", "reversed", baseline),
            ("MixDPO as published − sorted", PUBLISHED, SORTED),
            ("MixDPO, SFT re-warmed − MixDPO as published", "MixDPO, re-warmed", PUBLISHED),
            ("MixDPO as published − dropped, sorted", PUBLISHED, "dropped, sorted"),
        )
    ]


def claim_rows(table: Table) -> list[Row]:
    """Return the claims of the page beside those of the README, by world."""
    usual, baseline = where(table, is_usual), table["baseline"]
    noisy = [cell for cells in crossing_cells(table).values() for cell in cells]
    right = [cell for cell in usual if cell["hard_labels_right"] == 1.0]
    wrong_easy = where(table, lambda cell: cell.get("easy_labels_right", 1.0) < 1.0)
    natural = where(table, lambda cell: cell["kind"] == "natural" and is_tuned(cell))
    null = f"{baseline}, another order"
    chosen: Sequence[tuple[str, Sequence[CellRow], str, str]] = (
        ("labels right: dropped − DPO", right, DROPPED, baseline),
        ("coin's labels: smoothed by P − DPO", noisy, SMOOTHED, baseline),
        ("coin's labels: ties by Rao-Kupper − DPO", noisy, "Rao-Kupper", baseline),
        ("10 % wrong on easy pairs: smoothed by P − DPO", wrong_easy, SMOOTHED, baseline),
        ("SFT on better answers alone − dropped", noisy, BETTER, DROPPED),
        ("SFT on better answers alone − SFT mixed in", noisy, BETTER, MIXED),
        ("natural pairs: MixDPO as published − DPO", natural, PUBLISHED, baseline),
        ("natural pairs: MixDPO as published − dropped", natural, PUBLISHED, DROPPED),
        ("nothing: DPO in another order − DPO", where(table, is_tuned), null, baseline),
    )
    rows = [Row(name=name, compared=compare(table, cells, arm, against)) for name, cells, arm, against in chosen]
    return [row for row in rows if row.compared]


def share_rows(table: Table) -> list[Row]:
    """Return dropping at equal epochs and at equal updates by the share of hard pairs."""
    crossing = crossing_cells(table)
    rows = []
    for share in sorted({cell["hard_share"] for cell in where(table, is_usual)}):
        cells = [
            cell for cell in where(table, is_usual)
            if cell["hard_share"] == share and cell["world"] in crossing
            and cell["hard_labels_right"] == crossing[cell["world"]][0]["hard_labels_right"]
            and cell["hard_quality"] == usual_quality(table, cell["world"])
        ]  # fmt: skip
        for arm in (EPOCHS, DROPPED):
            found = compare(table, cells, arm, table["baseline"])
            rows.append(Row(name=f"{100 * share:.0f} % hard: {arm} − DPO", compared=found))
    return [row for row in rows if row.compared]


def usual_quality(table: Table, world: str) -> float:
    """Return the quality of a world's hard answers in most of its cells."""
    values = [cell["hard_quality"] for cell in where(table, is_usual) if cell["world"] == world]
    return max(sorted(set(values)), key=values.count)
