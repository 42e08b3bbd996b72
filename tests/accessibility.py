"""What axe-core finds wrong with a page in Chromium."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest


def serious_faults(page: Any) -> list[tuple[str, str]]:
    """Return the rules of serious or critical faults of a page that is shown, each with the first element at fault."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate((files(axe) / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
