"""Whether one plan is best or level everywhere: chosen in some regimes, and held unchanged to all others."""

from __future__ import annotations

from collections.abc import Sequence

from map_answers import CellRow, Table, worlds
from mixdpo.common.tables import TextTable, as_markdown
from mixdpo.study.world.map_format import listed, plain
from mixdpo.study.world.map_standing import Standing, standings


def method_block(table: Table, method: Table) -> str:
    """Say what was chosen in the cells of `method` and how it stands in the other cells of the map.

    Args:
        table: of the map.
        method: of the regimes in which parts were put together and one plan was chosen: the one that is level in most.
    """
    in_method = standings(method, method["cells"])
    chosen = in_method[0]
    known = {(cell["world"], cell["name"]) for cell in method["cells"]}
    others = [cell for cell in table["cells"] if (cell["world"], cell["name"]) not in known]
    arms = [one.arm for one in in_method if all(one.arm in cell["arms"] for cell in others)]
    if chosen.arm not in arms:
        return f"The map has cells in which *{chosen.arm}*, which was chosen, was not run."
    by_world = {world: _standings_of(table, world, others) for world in worlds(table)}
    over_all = [one for one in standings(table, others) if one.arm in arms]
    shares = [f"{_share(by_world[world][chosen.arm])} in {world}" for world in by_world]
    text = (
        f"Of {len(in_method)} treatments in the {chosen.cells} regimes of [method.yaml](../studies/maps/method.yaml), "
        f"{len(method['seeds'])} seeds in each, *{chosen.arm}* is best or level in {chosen.level}, and at most "
        f"{plain(chosen.worst, 0)} % of {table['baseline']}'s gain behind the highest mean. Held unchanged to all "
        f"other cells of the map it is best or level in {listed(shares)}. {_verdict(chosen, over_all)}"
    )
    headings = ("chosen in", "regimes", "level", "behind, mean", "behind, most")
    rows = [(one.arm, str(one.cells), str(one.level), plain(one.short, 0), plain(one.worst, 0)) for one in in_method]
    tested = [(one.arm, *(_entry(by_world[world][one.arm]) for world in by_world)) for one in over_all]
    return "\n\n".join(
        (
            text,
            as_markdown(TextTable("", headings, rows)).rstrip(),
            "Level of all cells, and behind the highest mean on average:",
            as_markdown(TextTable("", ("held to the others", *by_world), tested)).rstrip(),
        )
    )


def _standings_of(table: Table, world: str, cells: Sequence[CellRow]) -> dict[str, Standing]:
    return {one.arm: one for one in standings(table, [cell for cell in cells if cell["world"] == world])}


def _verdict(chosen: Standing, over_all: Sequence[Standing]) -> str:
    held = next(one for one in over_all if one.arm == chosen.arm)
    if chosen.level == chosen.cells and held.level == held.cells:
        return "So it is best or level everywhere."
    nearest = over_all[0]
    return f"So no plan is best or level everywhere; the nearest there is *{nearest.arm}* with {_share(nearest)}."


def _share(one: Standing) -> str:
    return f"{one.level} of {one.cells}"


def _entry(one: Standing) -> str:
    return f"{_share(one)}, {plain(one.short, 0)} %"
