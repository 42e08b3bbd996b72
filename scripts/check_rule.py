"""Check the advice of the package in regimes that it was not made from.

python scripts/check_rule.py HELD_OUT/map.json [--all-arms] [--least 3] [--output checks.md]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.common.tables import as_markdown, as_text
from mixdpo.plan.plan_settings import PlanSettings
from mixdpo.plan.rule_table import shipped_rule
from mixdpo.study.world.map_table import load_table
from mixdpo.study.world.rule_check import check_rule, check_table

NEEDED = 0.9
"""Share of the cells in which the advice has to hold."""


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where the advice holds in nine of ten cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("map", type=Path, help="the table of a map")
    parser.add_argument("--all-arms", action="store_true", help="compare with the best of all arms, not of the routes")
    parser.add_argument("--least", type=float, default=PlanSettings.least_effect, help="effect that matters, in %%")
    parser.add_argument("--output", type=Path, help="write the table as Markdown, too")
    given = parser.parse_args(arguments)
    try:
        checks = list(check_rule(load_table(given.map), shipped_rule(), given.least, given.all_arms))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if not checks:
        print("no cell has all routes of the rule and a clear gain", file=sys.stderr)
        return 1
    table = check_table(checks)
    print(as_text(table))
    if given.output is not None:
        with atomic_path(given.output) as temporary:
            temporary.write_text(f"{table.title}.\n\n{as_markdown(table)}", encoding="utf-8")
    return int(sum(one.holds for one in checks) < NEEDED * len(checks))


if __name__ == "__main__":
    sys.exit(main())
