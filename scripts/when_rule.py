"""Whether the advice of the package holds in regimes that it was not made from."""

from __future__ import annotations

from map_answers import Table
from mixdpo.common.tables import as_markdown
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.plan.rule_table import shipped_rule
from mixdpo.study.world.rule_check import MOST_LOST, check_rule, check_table


def rule_block(held_out: Table) -> str:
    """Say in how many cells the advice holds, beside the best of its own routes and of all treatments run there."""
    of_routes, checks = (
        list(check_rule(held_out, shipped_rule(), PlanSettings.least_effect, all_arms)) for all_arms in (False, True)
    )
    little = sum(one.lost.estimate <= MOST_LOST for one in checks)
    return (
        f"With {len(held_out['seeds'])} seeds the advice holds in {sum(one.holds for one in of_routes)} of "
        f"{len(of_routes)} such regimes against the best of what can be advised, and in "
        f"{sum(one.holds for one in checks)} against the best of all treatments, sorted DPO among them; at most "
        f"{MOST_LOST:g} % are lost to that in {little}.\n\n" + as_markdown(check_table(checks)).rstrip()
    )
