"""Write what a map says of treatments of hard pairs into the package, where `mixdpo advise` reads it.

python scripts/write_rule_table.py studies/maps/results/map.json
"""

from __future__ import annotations

import sys
from pathlib import Path

import mixdpo.plan
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.plan.rule_table import TABLE_FILE
from mixdpo.study.world.map_rule import rule_table
from mixdpo.study.world.map_table import load_table, table_text


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where the table was written."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) != 1:
        print("usage: python scripts/write_rule_table.py MAP_JSON", file=sys.stderr)
        return 2
    try:
        table = rule_table(load_table(Path(words[0])))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    target = Path(mixdpo.plan.__file__).with_name(TABLE_FILE)
    with atomic_path(target) as temporary:
        temporary.write_text(table_text(table), encoding="utf-8")
    print(f"{len(table['cells'])} cells, {len(table['wrong_labels'])} costs of wrong labels: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
