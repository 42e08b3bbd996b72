"""Write the example of docs/advice.md anew: advice on real judged pairs, by the table that the package has.

python scripts/advice_example.py FOLDER_OF_ALPACA_GRADED

The pairs are answers of 58 models to AlpacaEval's instructions, rated by the log-odds that GPT-4 Turbo prefers them to
a common answer (CC BY-NC 4.0, not part of the project). Two families of these models stand for the policies, wherever
they answered the same instruction; the difference of lengths in words is the second opinion on the labels.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from datasets import Dataset

from mixdpo.cli.main import main as mixdpo
from mixdpo.common.files import atomic_path

PAGE = Path(__file__).parents[1] / "docs" / "advice.md"
BEGIN, END = "<!-- example: scripts/advice_example.py -->", "<!-- end of the example -->"
POLICIES = {"start": "alpaca-7b", "trained": "vicuna"}
"""What names of the models begin with that stand for a policy."""


def judged_pairs(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Return the pairs with quality against both policies, where known, and the difference of lengths."""
    ratings: dict[str, dict[str, dict[str, float]]] = {policy: defaultdict(dict) for policy in POLICIES}
    for row in rows:
        for side in ("chosen", "rejected"):
            for policy, family in POLICIES.items():
                if row[f"{side}_model"].startswith(family):
                    ratings[policy][row["prompt_id"]][row[f"{side}_model"]] = row[f"score_{side}"]

    def quality(policy: str, row: Mapping[str, Any]) -> float | None:
        own = list(ratings[policy][row["prompt_id"]].values())
        return row["score_chosen"] - float(np.mean(own)) if own else None

    kept = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    return Dataset.from_list(
        [
            {
                **{name: row[name] for name in kept},
                "margin/words": float(_words(row["chosen"]) - _words(row["rejected"])),
                **{f"quality/{policy}/chosen": quality(policy, row) for policy in POLICIES},
            }
            for row in rows
        ]
    )


def _words(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def example(folder: Path) -> str:
    """Return what `mixdpo advise` prints of the pairs, as a block of the page."""
    rows = Dataset.from_parquet(str(folder / "train.parquet")).to_list()
    printed, here = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as workplace:
        judged_pairs(rows).to_parquet(Path(workplace) / "judged.parquet")
        try:
            os.chdir(workplace)
            with patch.dict(os.environ, {"COLUMNS": "80"}), redirect_stdout(printed):
                if mixdpo(["advise", "judged.parquet"]):
                    raise RuntimeError(printed.getvalue())
        finally:
            os.chdir(here)
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join([BEGIN, "", "```text", "$ mixdpo advise judged.parquet", *lines, "```", "", END])


def with_example(page: str, block: str) -> str:
    """Return the page with its example replaced."""
    before, rest = page.split(BEGIN)
    return before + block + rest.split(END)[1]


def main() -> int:
    """Write the example into the page."""
    if len(sys.argv) != 2:
        print("usage: python scripts/advice_example.py FOLDER_OF_ALPACA_GRADED", file=sys.stderr)
        return 2
    page = with_example(PAGE.read_text(encoding="utf-8"), example(Path(sys.argv[1])))
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
