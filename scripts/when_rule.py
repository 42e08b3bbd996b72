"""Whether the advice of the package holds in regimes that it was not made from."""

from __future__ import annotations

from map_answers import Table
from mixdpo.common.tables import TextTable, as_markdown
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.plan.rule_table import shipped_rule
from mixdpo.study.world.map_format import interval, signed
from mixdpo.study.world.rule_check import MOST_LOST, check_rule


def rule_block(held_out: Table) -> str:
    """Say in how many cells the advice holds, beside the best of its own routes and of all treatments run there."""
    of_routes, checks = (
        list(check_rule(held_out, shipped_rule(), PlanSettings.least_effect, all_arms)) for all_arms in (False, True)
    )
    little = sum(one.lost.estimate <= MOST_LOST for one in checks)
    rows = [
        (
            one.world, one.cell, f"{one.right:.2f}", signed(one.surplus, 2), one.advised, one.best,
            interval((one.lost.estimate, one.lost.low, one.lost.high), 0),
            interval((one.expected.estimate or 0.0, one.expected.low, one.expected.high), 0),
            signed(one.gained.estimate, 0),
        )
        for one in checks
    ]  # fmt: skip
    headings = ("world", "cell", "P", "surplus", "advised", "best", "lost, %", "expected, %", "gained, %")
    return (
        f"With {len(held_out['seeds'])} seeds the advice holds in {sum(one.holds for one in of_routes)} of "
        f"{len(of_routes)} such regimes against the best of what can be advised, and in "
        f"{sum(one.holds for one in checks)} against the best of all treatments, sorted DPO among them; at most "
        f"{MOST_LOST:g} % are lost to that in {little}.\n\n"
        + as_markdown(TextTable("", headings, rows, names=2)).rstrip()
    )
