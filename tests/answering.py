"""What tests of `mixdpo generate` share: questions, the command, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixdpo.cli.main import main

QUESTIONS = ["Tell me about cats.", "How?", "Boil water, add the leaves. Ok?", "dogs today", "1 2 3 4 5 6 7 8 9 0"]


def run(*arguments: str | Path | int) -> None:
    """Run `mixdpo generate`, which has to succeed."""
    assert main(["generate", *map(str, arguments)]) == 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of answers."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def report_of(path: Path) -> dict[str, Any]:
    """Return the report beside a file of answers."""
    return json.loads(path.with_name(f"{path.stem}.report.json").read_text())
