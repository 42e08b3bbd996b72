"""Imports point down only, and every module can be imported."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mixdpo"

MODULES = sorted(SOURCE.rglob("*.py"))


def test_imports_point_down() -> None:
    """The contracts of pyproject.toml, as `make lint` checks them."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_imports(path: Path) -> None:
    name = ".".join(("mixdpo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    if not name.endswith("__main__"):
        importlib.import_module(name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
