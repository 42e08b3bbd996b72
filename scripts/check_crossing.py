"""Check that a map shows SFT on hard pairs harm where their answers are poorest, and help where they are best.

python scripts/check_crossing.py runs/map-small/map.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from mixdpo.common.errors import InputError
from mixdpo.study.world.map_crossing import crossing_rows, turns
from mixdpo.study.world.map_table import load_table


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
    for world, points in rows.items():
        fails += not turns(points)
        what = "crosses" if turns(points) else "does not cross"
        print(f"{world}: {points[0].effect.estimate:+.3f} to {points[-1].effect.estimate:+.3f}, {what}")
    return int(fails > 0)


if __name__ == "__main__":
    sys.exit(main())
