"""Settings of the documentation site, which `make docs` builds with Sphinx."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

import mixdpo  # noqa: E402

REPOSITORY = "https://github.com/mixdpo/mixdpo"

project = "mixdpo"
author = "The mixdpo authors"
release = mixdpo.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "settings_table"]
exclude_patterns = ["_ext"]
nb_execution_mode = "off"  # they are stored as executed, and tests execute them
myst_heading_anchors = 4
default_role = "code"  # docstrings are written with single backticks
highlight_language = "sh"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_type_aliases = {"Named": "Named", "Rows": "Rows"}
napoleon_use_ivar = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"mixdpo {release}"
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
linkcheck_ignore = [re.escape(REPOSITORY)]  # what these name is checked as files of the clone


def copy_notebooks() -> None:
    """Bring the notebooks of examples/ to the pages, with their links to pages."""
    folder = HERE / "tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in (ROOT / "examples").glob("*.ipynb"):
        (folder / path.name).write_text(
            path.read_text(encoding="utf-8").replace("](../docs/", "](../"), encoding="utf-8"
        )


def link_to_repository(app: Any, name: str, source: list[str]) -> None:
    """Let links of pages to files of the repository lead to GitHub, and copy pictures that are outside of docs."""
    if "/" not in name:
        pictures = Path(app.outdir) / "_images"
        text = re.sub(r"\]\(\.\./", f"]({REPOSITORY}/blob/main/", source[0])
        for found in re.findall(r'(?:src|srcset)="\.\./([^"]+)"', text):
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / found, pictures)
        source[0] = re.sub(r'(src|srcset)="\.\./[^"]*?([^/"]+)"', r'\1="_images/\2"', text)


def plain_aliases(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write the names of type aliases, which Sphinx shows as its own objects where they are part of a union."""
    return signature and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature), returns


def setup(app: Any) -> None:
    """Called by Sphinx."""
    copy_notebooks()
    app.connect("source-read", link_to_repository)
    app.connect("autodoc-process-signature", plain_aliases)
