"""Which column of the data is what."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mixdpo.errors import InputError

ROLES: Final = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin", "tools")

# Common names of the two score columns, in order of preference.
_SCORE_NAMES: Final = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-score", "rejected-score"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)


@dataclass(frozen=True)
class Columns:
    """Names of the data's columns by role; None where the data has none."""

    chosen: str
    rejected: str
    prompt: str | None = None
    score_chosen: str | None = None
    score_rejected: str | None = None
    margin: str | None = None
    tools: str | None = None


def find_columns(names: Sequence[str], mapping: Mapping[str, str], file: str) -> Columns:
    """Find the columns of a data set by the user's mapping first and by their common names otherwise.

    Raises:
        InputError: a mapped or required column is missing, or a role is unknown.
    """
    for role, name in mapping.items():
        if role not in ROLES:
            raise InputError(f"data.columns has the unknown key {role!r}", mend=f"keys are {', '.join(ROLES)}")
        if name not in names:
            raise _missing(name, names, file)
    found = {role: name for role, name in mapping.items() if name in names}
    for role in ("prompt", "chosen", "rejected", "margin", "tools"):
        if role not in found and role in names:
            found[role] = role
    for required in ("chosen", "rejected"):
        if required not in found:
            raise _missing(required, names, file)
    if "score_chosen" not in found and "score_rejected" not in found:
        for chosen, rejected in _SCORE_NAMES:
            if chosen in names and rejected in names:
                found["score_chosen"], found["score_rejected"] = chosen, rejected
                break
    elif not {"score_chosen", "score_rejected"} <= set(found):
        raise InputError("data.columns names only one of score_chosen and score_rejected", file=file, mend="name both")
    return Columns(**found)


def _missing(name: str, names: Sequence[str], file: str) -> InputError:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return InputError(
        f"there is no such column; the columns are {', '.join(names)}",
        file=file,
        column=name,
        mend=f"map it with `data.columns: {{{name if name in ROLES else 'ROLE'}: {near[0] if near else 'NAME'}}}`",
    )
