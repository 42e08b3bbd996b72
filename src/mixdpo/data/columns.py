"""Which columns of a source hold the pair and its scores."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from datasets import Features, Json, LargeList, List, Value

from mixdpo.common.errors import InputError
from mixdpo.data.messages import with_role

SCORE_NAMES: Final[tuple[tuple[str, str], ...]] = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen-score", "rejected-score"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
"""Common names of the scores of chosen and rejected; the first pair that is there is used."""

PROMPT_NAMES: Final = ("question", "instruction", "query", "input")
"""Names of prompts in data of others. They may hold half a prompt, so a person has to say so."""

ALPACA_PROMPT: Final = "instruction"
"""The name of a prompt that goes on in the column `input`, where that says anything (Alpaca)."""

CONVERSATION_NAMES: Final = ("conversations", "messages")
"""Names of the conversation that comes before two answers of one message each; it ends before the answer."""

_OF_LIST: Final = re.compile(r"(max|min)\((.+)\)")


def of_list(column: str) -> tuple[str, str | None]:
    """Split a score column such as `max(all_scores)` into the source's column and the function of its list.

    Data with one column of scores of several answers, of which chosen is the best and rejected the worst, have no
    column of their own for either.
    """
    match = _OF_LIST.fullmatch(column)
    return (match[2], match[1]) if match else (column, None)


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Names of the columns of a source; None where it has none.

    `input` holds the second part of prompts, below the first; `margins` are its `margin/<metric>` columns.
    """

    prompt: str | None
    chosen: str
    rejected: str
    tools: str | None
    score_chosen: str | None
    score_rejected: str | None
    margin: str | None
    ratings_chosen: str | None = None
    ratings_rejected: str | None = None
    input: str | None = None
    margins: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns that hold ratings, in the source's words."""
        return tuple(name for name in (self.score_chosen, self.score_rejected, self.margin) if name is not None)


def find_columns(source: Features, mapping: Mapping[str, str] | None, file: str | None = None) -> PairColumns:
    """Find the columns of the pair: as `mapping` says, else by their common names.

    Args:
        source: the columns of the source with their types.
        mapping: from `prompt`, `chosen`, `rejected`, `tools`, `score_chosen`, `score_rejected`, `margin`,
            `ratings_chosen`, `ratings_rejected`, `input` to the source's own names; a score may be `max(NAME)` or
            `min(NAME)` of a column of lists.
        file: the source, for messages.

    Raises:
        InputError: a column is missing (with the nearest name), or `mapping` has an unknown key.
    """
    mapping, available = mapping or {}, list(source)
    known = [field.name for field in fields(PairColumns) if field.name != "margins"]
    for key, name in mapping.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"`columns` has the unknown key {key!r}",
                file=file,
                hint=f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}",
            )
        of_scores = key in ("score_chosen", "score_rejected")
        if (of_list(name)[0] if of_scores and name not in available else name) not in available:
            raise _missing(name, key, available, file)

    def named(key: str) -> str | None:
        return mapping.get(key, key if key in available else None)

    for key in ("chosen", "rejected"):
        if named(key) is None:
            raise _missing(key, key, available, file)
    scores = _scores(available, mapping, file)
    chosen = named("chosen") or "chosen"
    # An answer of one message (LLaMA-Factory, Axolotl) or of text stands beside a conversation.
    conversation = next((name for name in CONVERSATION_NAMES if _may_hold_messages(source.get(name))), None)
    alone = isinstance(source[chosen], dict) or is_text(source[chosen])
    return PairColumns(
        prompt=named("prompt") or (conversation if alone else None),
        chosen=chosen,
        rejected=named("rejected") or "rejected",
        tools=named("tools"),
        score_chosen=scores[0],
        score_rejected=scores[1],
        margin=named("margin"),
        ratings_chosen=named("ratings_chosen"),
        ratings_rejected=named("ratings_rejected"),
        input=mapping.get("input", "input" if _is_alpaca(source, named("prompt")) else None),
        margins=tuple(name for name in available if name.startswith("margin/")),
    )


def unread_columns(available: Sequence[str], columns: PairColumns) -> list[str]:
    """Return the columns of a source that nothing is read from, but for `pair_id`, which is made anew."""
    used = {columns.prompt, columns.chosen, columns.rejected, columns.tools, *columns.scores, *columns.margins}
    used |= {columns.ratings_chosen, columns.ratings_rejected, columns.input, "pair_id"}
    lists = {of_list(name)[0] for name in columns.scores if name not in available}
    return [name for name in available if name not in used | lists]


def check_prompt_is_read(source: Features, columns: PairColumns, file: str | None = None) -> None:
    """Raise `InputError` for texts without a column of prompts beside a column that looks like one.

    Such pairs would be trained on the words their answers happen to begin with.
    """
    unread = unread_columns(list(source), columns) if columns.prompt is None else []
    looks_like_one = [name for wanted in PROMPT_NAMES for name in unread if name.lower() == wanted]
    messages = [name for name in unread if _holds_messages(source[name])]
    found = next(iter([*looks_like_one, *messages]), None)
    if found is not None:
        raise InputError(
            f"there is no column 'prompt', and there is a column {found!r}", file=file, hint=_map("prompt", found)
        )


def _holds_messages(feature: Any) -> bool:
    element = feature.feature if isinstance(feature, (List, LargeList)) else None
    return isinstance(element, dict) and not element.keys().isdisjoint(("role", "from"))


def _may_hold_messages(feature: Any) -> bool:
    # Of JSON objects, such as messages with tool calls, only the rows say what they are.
    return _holds_messages(feature) or feature == List(Json())


def _is_alpaca(source: Features, prompt: str | None) -> bool:
    return prompt == ALPACA_PROMPT and all(is_text(source.get(name)) for name in (ALPACA_PROMPT, "input"))


def _map(key: str, name: str) -> str:
    return f"map it with `columns: {{{key}: {name}}}`, or --data.columns '{{{key}: {name}}}'"


def _scores(
    available: Sequence[str], mapping: Mapping[str, str], file: str | None
) -> tuple[str, str] | tuple[None, None]:
    mapped = [key for key in ("score_chosen", "score_rejected") if key in mapping]
    if len(mapped) == 2:
        return mapping["score_chosen"], mapping["score_rejected"]
    if mapped:
        other = "score_rejected" if mapped == ["score_chosen"] else "score_chosen"
        raise InputError(f"`columns` names {mapped[0]} but not {other}", file=file, hint=f"name {other} too")
    return next((pair for pair in SCORE_NAMES if set(pair) <= set(available)), (None, None))


def _missing(name: str, key: str, available: Sequence[str], file: str | None) -> InputError:
    near = difflib.get_close_matches(name, available, n=1, cutoff=0.4)
    there = ", ".join(available)
    guess = f", nearest is {near[0]!r}" if near else ""
    return InputError(
        f"there is no such column (there are {there}{guess})",
        file=file,
        column=name,
        hint=_map(key, near[0] if near else "..."),
    )


def message_feature(columns: Sequence[Any]) -> Any:
    """Return the type that holds the messages of all these columns: text fields if possible, else JSON objects."""
    keys = {"role": Value("string"), "content": Value("string")}
    for column in columns:
        if column is None or is_text(column):
            continue
        element = getattr(column, "feature", column)
        if not isinstance(element, dict):
            return List(Json())
        for name, kind in with_role(element).items():
            if name != "content" and not is_text(kind):
                return List(Json())
            keys[name] = Value("string")
    return List(keys)


def is_text(feature: Any) -> bool:
    """Whether a column type holds text (or nothing but nulls)."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view", "null")
