"""Write all that is made from the committed map: its report, its figure, its two pages, and parts of others.

    python scripts/when_page.py                                 # anew from studies/maps/results/map.json
    python scripts/when_page.py runs/map/map.json               # after a new map: takes it over first

In the pages nothing is written but what stands between `<!-- map: NAME -->` and `<!-- end -->`; the words around
hold no number and no verdict of the map, so that a new map cannot make them wrong.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from likelihood_by_quality import LIKELIHOOD
from map_answers import Table
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.study.world.map_report import write_map_report
from mixdpo.study.world.map_table import TABLE_FILE, load_table
from when_blocks import blocks
from when_method import method_block
from when_rule import rule_block

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "maps" / "results"
PAGES = ("docs/when.md", "docs/map.md", "docs/advice.md", "docs/studies.md", "README.md")
METHOD, HELD_OUT = RESULTS / "method.json", RESULTS / "held-out.json"
_BLOCK = re.compile(r"(<!-- map: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, parts: Mapping[str, str], folder: str) -> str:
    """Return a page with its generated parts written anew.

    Args:
        page: its Markdown.
        parts: by name.
        folder: of the page, "" for the top; links to the repository's files are made relative to it.

    Raises:
        InputError: the page asks for a part that there is not.
    """

    def written(match: re.Match[str]) -> str:
        if match[2] not in parts:
            raise InputError(f"there is no part {match[2]!r} of the map", hint=f"there are {', '.join(parts)}")
        text = parts[match[2]]
        return f"{match[1]}\n{text if folder else text.replace('../', '')}\n\n{match[3]}"

    return _BLOCK.sub(written, page)


def pages(root: Path, table: Table) -> dict[Path, str]:
    """Return the text of every page by its path."""
    likelihood = json.loads(LIKELIHOOD.read_text(encoding="utf-8"))
    parts = {
        **blocks(table, likelihood),
        "method": method_block(table, load_table(METHOD)),
        "held-out": rule_block(load_table(HELD_OUT), table),
    }
    return {
        root / name: filled((root / name).read_text(encoding="utf-8"), parts, name.rpartition("/")[0])
        for name in PAGES
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the report, the figure and the pages."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) > 1:
        print("usage: python scripts/when_page.py [MAP_JSON]", file=sys.stderr)
        return 2
    try:
        if words:
            load_table(Path(words[0]))
            RESULTS.mkdir(exist_ok=True)
            shutil.copyfile(words[0], RESULTS / TABLE_FILE)
        table = load_table(RESULTS / TABLE_FILE)
        found = pages(ROOT, table)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    write_map_report(table, RESULTS)
    for path, text in found.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
