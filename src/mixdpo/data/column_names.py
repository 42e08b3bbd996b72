"""What the names of columns say, and which mapping a person has to write where they say too little."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from datasets import Value

PROMPT_NAMES: Final = ("question", "instruction", "query", "input")
"""Names of prompts in data of others. They may hold half a prompt, so a person has to say so."""

SIDES: Final = ("chosen", "rejected")

_PROMPT_WORDS: Final = frozenset(("prompt", *PROMPT_NAMES))
_TEXT_WORDS: Final = _PROMPT_WORDS | {"text", "content", "message", "messages", "conversation"}
"""Last words of the names of columns of texts; that of `prompt_id` is none."""
_SCORE_WORDS: Final = frozenset(("score", "scores", "rating", "ratings", "reward", "rewards", "grade", "points"))

_SYNONYMS: Final = {
    "prompt": PROMPT_NAMES,
    "chosen": ("preferred", "good", "better", "accepted", "best", "positive", "winner", "winning", "win", "won"),
    "rejected": (
        *("dispreferred", "non_preferred", "bad", "worse", "worst", "negative"),
        *("loser", "losing", "lose", "lost"),
    ),
}
"""Words that names of columns begin with, or hold at the beginning of a word."""

_OF_LIST: Final = re.compile(r"(max|min)\((.+)\)")
_NUMBERS: Final = re.compile(r"u?int\d+|float\d+|bool|timestamp.*|date\d+|time\d+.*")


def bare(name: str) -> str:
    """Return a name without case, spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def find_name(name: str, available: Sequence[str]) -> str | None:
    """Return the column of a name, or the only one that differs from it in case, spaces and hyphens alone."""
    if name in available:
        return name
    alike = [column for column in available if bare(column) == bare(name)]
    return alike[0] if len(alike) == 1 else None


def of_list(column: str) -> tuple[str, str | None]:
    """Split a score column such as `max(all_scores)` into the source's column and the function of its list.

    Data with one column of scores of several answers, of which chosen is the best and rejected the worst, have no
    column of their own for either.
    """
    match = _OF_LIST.fullmatch(column)
    return (match[2], match[1]) if match else (column, None)


def leaves(features: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and types of all columns that can be mapped, those within others as `input.messages`."""
    for name, kind in features.items():
        if isinstance(kind, dict) and kind.keys().isdisjoint(("role", "from")):
            yield from leaves(kind, f"{within}{name}.")
        else:
            yield f"{within}{name}", kind


def may_say(kind: Any) -> bool:
    """Whether a column of a type may hold texts or messages: all but numbers and times."""
    return not (isinstance(kind, Value) and _NUMBERS.fullmatch(kind.dtype))


def nearest(name: str, key: str, available: Sequence[str]) -> str | None:
    """Return the column that a person may have meant by a name that is not there, None if none is like it.

    Args:
        name: that is not there.
        key: of `columns`, such as `chosen`; a name that says the opposite is never one.
        available: names of columns.
    """
    within, function = of_list(name)
    if function is not None:
        found = nearest(within, "", available)
        return None if found is None else f"{function}({found})"
    plain = {column: bare(column) for column in available if _side_of(column) in (key, None) or key not in SIDES}
    for word in (bare(name), *_SYNONYMS.get(key, ())):
        holding = [column for column, said in plain.items() if _holds(said, word)]
        if holding:  # of "good score" and "good answer" the answer
            return min(holding, key=lambda column: key in SIDES and _is_score(column))
    close = difflib.get_close_matches(bare(name), plain.values(), n=1)
    return next((column for column, said in plain.items() if said in close), None)


def prompts_among(names: Sequence[str]) -> list[str]:
    """Return the columns whose names say that they hold prompts, those with the plainest names first."""
    exact = [name for wanted in PROMPT_NAMES for name in names if bare(name) == wanted]
    words = {name: _words_of(name) for name in names if name not in exact}
    return exact + [name for name, said in words.items() if _PROMPT_WORDS & {*said} and said[-1] in _TEXT_WORDS]


def scores_among(names: Sequence[str]) -> dict[str, str]:
    """Return `score_chosen` and `score_rejected`, where the names of two columns say that they are these."""
    scores = [name for name in names if _is_score(name)]
    found = {f"score_{side}": nearest(side, side, scores) for side in SIDES}
    there = {key: name for key, name in found.items() if name is not None}
    return there if len(set(there.values())) == len(SIDES) else {}


def mapping_hint(mapping: Mapping[str, str]) -> str:
    """Return what to write so that these columns are read."""
    written = ", ".join(f"{key}: {_as_yaml(name)}" for key, name in mapping.items())
    them = "it" if len(mapping) == 1 else "them"
    return f"map {them} with `columns: {{{written}}}`, or --data.columns '{{{written}}}'"


def _as_yaml(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) if re.search(r"[,:#{}\[\]'\"&*!|>%@`]", name) else name


def _is_score(name: str) -> bool:
    return not _SCORE_WORDS.isdisjoint(_words_of(name))


def _words_of(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", bare(name)) or [""]


def _holds(said: str, word: str) -> bool:
    """Whether a word of a bare name begins with `word`."""
    return re.search(rf"(?<![a-z]){re.escape(word)}", said) is not None


def _side_of(name: str) -> str | None:
    """Return the answer that a name says a column holds; "non_preferred" is rejected, though it holds "preferred"."""
    for side in SIDES[::-1]:
        if any(_holds(bare(name), word) for word in (side, *_SYNONYMS[side])):
            return side
    return None
