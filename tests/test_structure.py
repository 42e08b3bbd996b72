"""Imports point down only, and every module can be imported."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mixdpo"

# A room may import from itself and from those before it.
ROOMS = (
    "common", "losses", "data", "models", "generation", "judges", "difficulty", "plan", "training", "auditing",
    "evaluation", "recipe", "study", "__init__", "cli", "__main__",
)  # fmt: skip
RANK = {name: rank for rank, name in enumerate(ROOMS)}
MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(path: Path) -> set[str]:
    """Names of the package's modules that a file imports, except for type checking."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] == "mixdpo"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    own = relative.parts[0].removesuffix(".py")
    for name in imports_of(path):
        other = part_of(name)
        assert RANK[other] <= RANK[own], f"{relative} imports {name} from a room above"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_imports(path: Path) -> None:
    name = ".".join(("mixdpo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    if not name.endswith("__main__"):
        importlib.import_module(name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
