"""Files that come with the package: recipes, configurations of accelerate, study files, judge prompts, the flat loop.

Most stand at the top of the repository, where people look for them; a wheel holds them beside this module. Judge
prompts stand with the code that asks them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path

ShippedKind = Literal["recipe", "accelerate configuration", "study file", "map file", "example", "judge prompt"]

PREFIX: Final = "mixdpo:"
"""How a command line names a file of the package instead of one of the user's."""
_IN_WHEEL: Final = Path(__file__).with_name("shipped")
_TOP: Final = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[3]
_PACKAGE: Final = Path(__file__).parents[1]
_PLACES: Final[dict[ShippedKind, tuple[Path, str]]] = {
    "recipe": (_TOP, "recipes/*.yaml"),
    "accelerate configuration": (_TOP, "recipes/accelerate/*.yaml"),
    "study file": (_TOP, "studies/*.yaml"),
    "map file": (_TOP, "studies/maps/*.yaml"),
    "example": (_TOP, "examples/*.*"),
    "judge prompt": (_PACKAGE, "judges/prompts/*.txt"),
}


@dataclass(frozen=True)
class ShippedFile:
    """A file of the package."""

    kind: ShippedKind
    path: Path

    @property
    def name(self) -> str:
        """What it is asked for by: a YAML file's name without the ending."""
        return self.path.stem if self.path.suffix == ".yaml" else self.path.name

    @property
    def summary(self) -> str:
        """Its first line that says something, without the marks of a comment."""
        text = self.path.read_text(encoding="utf-8")
        if self.path.suffix == ".ipynb":
            text = "".join(json.loads(text)["cells"][0]["source"])
        first = text.lstrip("#\"' \n").partition("\n")[0]
        return first.partition(". ")[0].strip(" .\"'")


def shipped_files() -> list[ShippedFile]:
    """Return all of them, kind by kind."""
    return [ShippedFile(kind, path) for kind, (root, files) in _PLACES.items() for path in sorted(root.glob(files))]


def find_shipped(name: str, kinds: Sequence[ShippedKind] = tuple(_PLACES)) -> ShippedFile:
    """Return the file of that name; `InputError` names the nearest where there is none."""
    known = {one.name: one for one in shipped_files() if one.kind in kinds}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        what = kinds[0] if len(kinds) == 1 else "file"
        raise InputError(
            f"no {what} of the package is named {name!r}",
            hint=(f"did you mean {near[0]}? " if near else "") + "mixdpo examples lists them",
        )
    return known[name]


def resolve(given: Path, kind: ShippedKind) -> Path:
    """Return the path of `mixdpo:NAME`, a file of the package; any other path as it is given."""
    text = str(given)
    return find_shipped(text.removeprefix(PREFIX), [kind]).path if text.startswith(PREFIX) else given


def copy_shipped(names: Sequence[str], folder: Path) -> list[Path]:
    """Copy files into a folder, which is made if need be.

    Raises:
        InputError: a name is unknown, or a file of that name is there already; nothing is copied then.
    """
    sources = [find_shipped(name.removeprefix(PREFIX)).path for name in names]
    copies = [folder / source.name for source in sources]
    for copy in copies:
        if copy.exists():
            raise InputError("the file exists already", file=copy, hint="choose another --output, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for source, copy in zip(sources, copies, strict=True):
        with atomic_path(copy) as temporary:
            temporary.write_bytes(source.read_bytes())
    return copies
