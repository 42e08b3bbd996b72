"""Whether the advice of the package holds in regimes that it was not made from."""

from __future__ import annotations

from collections.abc import Sequence

from map_answers import Table
from mixdpo.common.tables import as_markdown
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.plan.rule_table import cells_read, shipped_rule
from mixdpo.study.world.map_rule import rule_table
from mixdpo.study.world.rule_check import MOST_LOST, RuleCheck, check_rule, check_table


def rule_block(held_out: Table, whole: Table) -> str:
    """Say in how many cells the advice holds, beside the best of its own routes and of all treatments run there.

    Args:
        held_out: the map of other regimes.
        whole: the map that the rule was made from, of which it does not read all cells.
    """
    read = {(cell["world"], cell["name"]) for cell in cells_read(rule_table(whole))}
    of_routes, of_all = (
        [list(check_rule(table, shipped_rule(), PlanSettings.least_effect, all_arms)) for table in (held_out, whole)]
        for all_arms in (False, True)
    )
    checks = of_all[0]
    unread, unread_of_all = (
        [one for one in of_map if (one.world, one.cell) not in read] for of_map in (of_routes[1], of_all[1])
    )
    both, both_of_all = [*of_routes[0], *unread], [*checks, *unread_of_all]
    little = sum(one.lost.estimate <= MOST_LOST for one in checks)
    return (
        f"With {len(held_out['seeds'])} seeds the advice holds in {_holding(of_routes[0])} of {len(checks)} such "
        f"regimes against the best of what can be advised, and in {_holding(checks)} against the best of all "
        f"treatments, sorted DPO among them; at most {MOST_LOST:g} % are lost to that in {little}.\n\n"
        f"The map itself has {len(unread)} cells that the routes are not read from (natural pairs, the start's own "
        "answers, other learning rates, three epochs, wrong labels on easy pairs). With "
        f"{len(whole['seeds'])} seeds the advice holds in {_holding(unread)} of them, and in "
        f"{_holding(unread_of_all)} against all treatments. Together that is {_holding(both)} of {len(both)}, and "
        f"{_holding(both_of_all)} against all treatments.\n\n" + as_markdown(check_table(checks)).rstrip()
    )


def _holding(checks: Sequence[RuleCheck]) -> int:
    return sum(one.holds for one in checks)
