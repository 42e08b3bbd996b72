"""What pages link to and the paths they print are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixdpo.cli.main import main
from pages import PAGES, ROOT, anchors, links, mixdpo_commands, paths


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    printed = {name for name in paths(page.read_text(encoding="utf-8")) if "NAME" not in name}
    assert {name for name in printed if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_they_are_given(page: Path) -> None:
    """With `--help` behind it a command is parsed and not run; keys of sections (`--train.beta`) are a recipe's."""
    for arguments in mixdpo_commands(page.read_text(encoding="utf-8")):
        assert main([*arguments, "--help"]) == 0, arguments


def test_the_site_has_every_page() -> None:
    """What Sphinx refuses too, where it is installed."""
    index = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8").split()
    assert {path.stem for path in ROOT.glob("docs/*.md")} - set(index) == set()
    assert {f"tutorials/{path.stem}" for path in ROOT.glob("examples/*.ipynb")} - set(index) == set()


def test_an_option_that_is_none_is_noticed() -> None:
    assert main(["compare", "a.json", "--nonsense", "--help"]) == 2
