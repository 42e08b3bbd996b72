"""Settings by topic, as `--help` shows them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from typing import Any

from mixdpo.recipe.recipe_file import yaml_text


@dataclass(frozen=True)
class HelpTopic:
    """What there is to set about one thing.

    Attributes:
        name: as it stands behind `--help`.
        about: what it is, in a few words.
        entries: keys, each with what it means and its default; a key without a meaning is a heading.
    """

    name: str
    about: str
    entries: tuple[tuple[str, str], ...]


def setting_entries(cls: type[Any], prefix: str = "", only: Collection[str] | None = None) -> list[tuple[str, str]]:
    """Return the fields of a settings dataclass (of `only` these): key behind `prefix`, and help with the default."""
    entries = []
    for f in fields(cls):
        if not f.init or (only is not None and f.name not in only):
            continue
        if f.default is MISSING and f.default_factory is MISSING:
            default = "required"
        else:
            default = f"default {yaml_text(f.default if f.default_factory is MISSING else f.default_factory())}"
        entries.append((f"{prefix}{f.name}", f"{f.metadata.get('help', '')} ({default})"))
    return entries
