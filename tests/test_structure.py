"""What holds for the whole project: the order of imports, sizes, extras, and where tests stand."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mixdpo"

MODULES = sorted(SOURCE.rglob("*.py"))


def test_imports_point_down() -> None:
    """The contracts of pyproject.toml, as `make lint` checks them."""
    # In a process of its own, for it configures logging, and other tests would see no warning any more.
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    result = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_imports(path: Path) -> None:
    name = ".".join(("mixdpo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    if not name.endswith("__main__"):
        importlib.import_module(name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def test_every_extra_that_is_named_can_be_installed() -> None:
    """Nothing is on a package index yet, and an extra that does not exist installs nothing without a word."""
    extras = re.findall(
        r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1], re.M
    )
    files = [*ROOT.glob("src/mixdpo/**/*.*"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/**/*.yaml")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".md", ".yaml", ".html")}
    assert not [path for path, text in texts.items() if re.search(r"mixdpo\[", text)]
    named = re.findall(r"""-e ['"]\.\[([\w-]+)|install_extra\(["']([\w-]+)""", "".join(texts.values()))
    assert {"gpu", "eval", "language"} <= {a or b for a, b in named} <= set(extras)


def test_every_room_has_a_folder_of_tests() -> None:
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    folders = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert folders == rooms | {"parity", "invariant", "e2e", "first_use"}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_has_an_environment_for_each_python() -> None:
    def started(*given: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        command = ["make", "--dry-run", "fast", *given]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"\n.venv-{version}/bin/python -m pytest" in started(f"PYTHON={sys.executable}")
    assert "\n.venv/bin/python -m pytest" in "\n" + started()
