"""Check that a map shows SFT on hard pairs harm where their answers are poorest, and help where they are best.

python scripts/check_crossing.py runs/map-small/map.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from mixdpo.common.errors import InputError
from mixdpo.study.world.map_table import crossing_rows, load_table


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where both intervals of every world are clear of zero, on their sides."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1:
        print("usage: python scripts/check_crossing.py MAP_JSON", file=sys.stderr)
        return 2
    try:
        rows = crossing_rows(load_table(Path(words[0])))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if not rows:
        print("no cells that differ in quality alone", file=sys.stderr)
        return 1
    fails = 0
    for world, cells in rows.items():
        (_, poorest), (_, best) = cells[0], cells[-1]
        crosses = poorest.high < 0 < best.low
        fails += not crosses
        what = "crosses" if crosses else "does not cross"
        print(f"{world}: {poorest.estimate:+.3f} to {best.estimate:+.3f}, {what}")
    return int(fails > 0)


if __name__ == "__main__":
    sys.exit(main())
