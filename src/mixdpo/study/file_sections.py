"""What study files and map files are read by: keys, arms, seeds and the baseline, and the help on their keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mixdpo.common.errors import InputError
from mixdpo.common.settings import read_yaml, unknown_key

T = TypeVar("T")


def read_sections(
    file: str | Path, known: Sequence[str], needed: Sequence[str], make: Callable[[dict[str, Any], str], T]
) -> T:
    """Read a file and return what `make` makes of its content.

    Args:
        file: YAML.
        known: all keys that it may have.
        needed: those that it must have.
        make: given the content and the file's name; its errors name the file.

    Raises:
        InputError: the file is missing or broken, has another key or lacks one, or `make` refuses it.
    """
    content = read_yaml(file)
    for key in content:
        if key not in known:
            raise unknown_key(key, known, file)
    for key in needed:
        if key not in content:
            raise InputError(f"no {key} is given", file=file, hint=f"add a section {key}:")
    try:
        return make(content, str(file))
    except InputError as error:
        if error.file is not None:
            raise
        raise InputError(str(error), file=file) from error


def named_arms(values: Any) -> Mapping[Any, Any]:
    """Return the section `arms`; `InputError` if it names none."""
    if not isinstance(values, Mapping) or not values:
        raise InputError("arms must be a mapping of names to what each does")
    return values


def baseline_of(content: Mapping[str, Any], arms: Collection[str], file: str) -> str:
    """Return the arm that all others are compared with, by default the first; `InputError` for an unknown one."""
    baseline = str(content.get("baseline", next(iter(arms))))
    if baseline not in arms:
        raise unknown_key(f"baseline {baseline}", [f"baseline {name}" for name in arms], file)
    return baseline


def are_seeds(values: Any) -> bool:
    """Whether a section is a list of whole numbers from 0."""
    return isinstance(values, list) and all(type(seed) is int and seed >= 0 for seed in values)
