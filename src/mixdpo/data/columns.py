"""Which columns of a source hold the pair and its scores."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from datasets import Audio, Features, Image, Json, LargeList, List, Value, Video

from mixdpo.common.errors import InputError
from mixdpo.data.column_names import (
    SIDES,
    bare,
    find_name,
    leaves,
    mapping_hint,
    may_say,
    nearest,
    of_list,
    prompts_among,
    scores_among,
)
from mixdpo.data.messages import CALLS, with_role
from mixdpo.data.training_columns import LABEL_PROBABILITY, TIE, is_weight

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

_EXACT_SCORES: Final = frozenset(name for pair in SCORE_NAMES for name in pair)

PROMPT_PARTS: Final = {
    **dict.fromkeys(("system", "system_prompt", "system_message"), "system"),
    "history": "history",
    **dict.fromkeys(("context", "question", "instruction", "query", "input", "prompt"), "input"),
}
"""Names of columns that may hold a part of the prompt, and the key of `columns` that reads them beside one."""

MEDIA_NAMES: Final = ("image", "images", "audio", "audios", "video", "videos")

ALPACA_PROMPT: Final = "instruction"
"""The name of a prompt that goes on in the column `input`, where that says anything (Alpaca)."""

CONVERSATION_NAMES: Final = ("conversations", "messages")
"""Names of the conversation that comes before two answers of one message each; it ends before the answer."""

_TEXTS: Final = ("prompt", *SIDES, "input", "system", "history")
"""Keys of `columns` whose columns hold texts or messages."""
_DEFAULT_KEYS: Final = (
    *("prompt", *SIDES, "tools", "chat_template_kwargs", "margin", "ratings_chosen", "ratings_rejected"),
    *(LABEL_PROBABILITY, TIE),
)
"""Keys of `columns` that are looked for under their own names."""

_BY_NAME: Final = ("margins", "qualities", "weights", "renamed")
"""Fields of `PairColumns` that no key of `columns` maps."""

_QUALITY: Final = re.compile(r"(quality/[^/]+/)(chosen|rejected)(_wins)?")

_NUMBER: Final = r"u?int\d+|float(32|64)"


def is_quality(name: str) -> bool:
    """Whether a column says how good an answer of a pair is against those of a policy (see `pairs/quality.py`)."""
    return _QUALITY.fullmatch(name) is not None


def of_other_answer(quality: str) -> str:
    """Return the column that says of a pair's other answer what a column of quality says of one."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return _QUALITY.sub(lambda found: f"{found[1]}{other[found[2]]}{found[3] or ''}", quality)


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Names of the columns of a source; None where it has none.

    `input` holds the second part of prompts, below the first, `system` the system message and `history` the turns
    before them; `margins` are its `margin/<metric>` columns, `weights` its `weight/<name>` columns. `renamed`: columns
    that were found although their names differ in case, spaces or hyphens.
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
    chat_template_kwargs: str | None = None
    input: str | None = None
    system: str | None = None
    history: str | None = None
    label_probability: str | None = None
    tie: str | None = None
    margins: tuple[str, ...] = ()
    weights: tuple[str, ...] = field(default=(), repr=False)
    qualities: tuple[str, ...] = field(default=(), repr=False)
    renamed: tuple[str, ...] = field(default=(), repr=False)

    @property
    def scores(self) -> tuple[str, ...]:
        """The columns that hold ratings, in the source's words."""
        return tuple(name for name in (self.score_chosen, self.score_rejected, self.margin) if name is not None)

    def of_training(self) -> Iterator[tuple[str, str]]:
        """Yield the columns that say how a pair is to be trained, and the source's columns of them."""
        yield from ((name, name) for name in self.weights)
        for key in (LABEL_PROBABILITY, TIE):
            name = getattr(self, key)
            if name is not None:
                yield key, name

    def numbers(self) -> Iterator[tuple[str, str]]:
        """Yield the columns of numbers that pairs may have, and the source's columns of them."""
        for key in ("score_chosen", "score_rejected", "margin", "ratings_chosen", "ratings_rejected"):
            name = getattr(self, key)
            if name is not None:
                yield key, name
        yield from ((name, name) for name in (*self.margins, *self.qualities))
        yield from self.of_training()


def find_columns(source: Features, mapping: Mapping[str, str] | None, file: str | None = None) -> PairColumns:
    """Find the columns of the pair: as `mapping` says, else by their common names.

    A name that is not there is also looked for without regard to case, spaces and hyphens.

    Args:
        source: the columns of the source with their types.
        mapping: from `prompt`, `chosen`, `rejected`, `tools`, `score_chosen`, `score_rejected`, `margin`,
            `ratings_chosen`, `ratings_rejected`, `input`, `system`, `history`, `label_probability`, `tie` to the
            source's own names; a score may be `max(NAME)` or `min(NAME)` of a column of lists.
        file: the source, for messages.

    Raises:
        InputError: columns are missing (all are named, with the nearest names), or `mapping` has an unknown key.
    """
    mapping, available = mapping or {}, list(source)
    known = [field.name for field in fields(PairColumns) if field.name not in _BY_NAME]
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"`columns` has the unknown key {key!r}",
                file=file,
                hint=f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}",
            )
    found = {key: _find_mapped(name, key, available) for key, name in mapping.items()}
    found |= {key: find_name(key, available) for key in _DEFAULT_KEYS if key not in mapping}
    missing = {key: mapping.get(key, key) for key in (*mapping, *SIDES) if found[key] is None}
    if missing:
        raise _missing(missing, mapping, source, file)
    scores = _scores(available, mapping, found, file)
    chosen, rejected = (str(found[key]) for key in SIDES)
    # An answer of one message (LLaMA-Factory, Axolotl) or of text stands beside a conversation.
    conversation = next((name for name in CONVERSATION_NAMES if _may_hold_messages(source.get(name))), None)
    alone = isinstance(source[chosen], dict) or is_text(source[chosen])
    alpaca = "input" if _is_alpaca(source, found["prompt"]) else None
    return PairColumns(
        prompt=found["prompt"] or (conversation if alone else None),
        chosen=chosen,
        rejected=rejected,
        tools=found["tools"],
        score_chosen=scores[0],
        score_rejected=scores[1],
        margin=found["margin"],
        ratings_chosen=found["ratings_chosen"],
        ratings_rejected=found["ratings_rejected"],
        chat_template_kwargs=found["chat_template_kwargs"],
        input=found.get("input", alpaca),
        system=found.get("system"),
        history=found.get("history"),
        label_probability=found[LABEL_PROBABILITY],
        tie=found[TIE],
        margins=tuple(name for name in available if name.startswith("margin/")),
        qualities=tuple(name for name in available if is_quality(name)),
        weights=tuple(name for name in available if is_weight(name)),
        renamed=tuple(
            name
            for name, exact in (
                *((name, mapping.get(key, key)) for key, name in found.items()),
                *((name, name if name in {*_EXACT_SCORES, *mapping.values()} else None) for name in scores),
            )
            if name is not None and name != exact
        ),
    )


def read_columns(columns: PairColumns) -> set[str]:
    """Return the columns of a source that pairs are made of; not those whose best and worst is read."""
    sides = {columns.prompt, columns.input, columns.system, columns.history, columns.chosen, columns.rejected}
    sides |= {columns.tools, columns.chat_template_kwargs}
    return {name for name in (*sides, *dict(columns.numbers()).values()) if name is not None}


def unread_columns(available: Sequence[str], columns: PairColumns) -> list[str]:
    """Return the columns of a source that nothing is read from, but for those that we write and make anew."""
    used = read_columns(columns) | {"pair_id", "source_row", "source_file"}
    lists = {of_list(name)[0] for name in columns.scores if name not in available}
    return [name for name in available if name not in used | lists]


def prompt_part(name: str) -> str | None:
    """Return the key of `columns` that reads a column whose name says that it holds a part of the prompt."""
    return PROMPT_PARTS.get(bare(name))


def is_media(name: str, feature: Any) -> bool:
    """Whether a column holds images, sounds or films."""
    kind = feature.feature if isinstance(feature, (List, LargeList)) else feature
    return isinstance(kind, (Image, Audio, Video)) or bare(name) in MEDIA_NAMES


def holds_messages(feature: Any) -> bool:
    """Whether a column type holds lists of messages."""
    element = feature.feature if isinstance(feature, (List, LargeList)) else None
    return isinstance(element, dict) and not element.keys().isdisjoint(("role", "from"))


def _may_hold_messages(feature: Any) -> bool:
    # Of JSON objects, such as messages with tool calls, only the rows say what they are.
    return holds_messages(feature) or feature == List(Json())


def _is_alpaca(source: Features, prompt: str | None) -> bool:
    return prompt == ALPACA_PROMPT and all(is_text(source.get(name)) for name in (ALPACA_PROMPT, "input"))


def _find_mapped(name: str, key: str, available: Sequence[str]) -> str | None:
    if key in ("score_chosen", "score_rejected") and name not in available and of_list(name)[1] is not None:
        return name if of_list(name)[0] in available else None
    return find_name(name, available)


def _scores(
    available: Sequence[str], mapping: Mapping[str, str], found: Mapping[str, str | None], file: str | None
) -> tuple[str, str] | tuple[None, None]:
    mapped = [key for key in ("score_chosen", "score_rejected") if key in mapping]
    if len(mapped) == 2:
        return str(found["score_chosen"]), str(found["score_rejected"])
    if mapped:
        other = "score_rejected" if mapped == ["score_chosen"] else "score_chosen"
        raise InputError(f"`columns` names {mapped[0]} but not {other}", file=file, hint=f"name {other} too")
    exact = next((pair for pair in SCORE_NAMES if set(pair) <= set(available)), None)
    if exact is not None:
        return exact
    alike = ((find_name(first, available), find_name(second, available)) for first, second in SCORE_NAMES)
    return next(((first, second) for first, second in alike if first and second), (None, None))


def half_scores(available: Sequence[str]) -> list[tuple[str, str]]:
    """Return the score columns whose partner, of the other answer, is not there, and its name."""
    return [
        (name, other)
        for first, second in SCORE_NAMES
        for name, other in ((first, second), (second, first))
        if name in available and find_name(other, available) is None
    ]


def _missing(missing: Mapping[str, str], mapping: Mapping[str, str], source: Features, file: str | None) -> InputError:
    """Return one error for all missing columns, with the mapping to write."""
    available, lists = [name for name, _ in leaves(source)], _lists_of_pairs(source)
    texts = [name for name, kind in leaves(source) if may_say(kind)]
    rest = {key: name for key, name in mapping.items() if key not in missing}
    near = {key: nearest(name, key, texts if key in _TEXTS else available) for key, name in missing.items()}
    if "prompt" not in {*mapping, *missing} and find_name("prompt", available) is None:
        others = [name for name in texts if name not in near.values()]
        blank = ["..."] if others and None in near.values() else []
        rest.update(("prompt", name) for name in [*prompts_among(others), *blank][:1])
    if not rest.keys() & {"score_chosen", "score_rejected"} and _scores(available, {}, {}, file) == (None, None):
        rest |= scores_among(available)
    wanted = list(dict.fromkeys(missing.values()))
    guesses = ", ".join(repr(name) for name in dict.fromkeys(near.values()) if name is not None)
    likest = "" if not guesses else f", nearest {'are' if ', ' in guesses else 'is'} {guesses}"
    there = f"(there are {', '.join(available)}{likest})"
    hint = mapping_hint({**{key: name or "..." for key, name in near.items()}, **rest})
    if all(isinstance(kind, dict) and {*SIDES} <= kind.keys() for kind in source.values()):
        hint = "each row lies under a key of its own: write a list of them, as by `jq '[.[]]' FILE > rows.json`"
    if lists:
        hint = f"the rows lie in {lists[0]!r}: write that list alone, as by `jq .{lists[0]} FILE > rows.json`"
    if len(wanted) == 1:
        return InputError(f"there is no such column {there}", file=file, column=wanted[0], hint=hint)
    return InputError(f"there are no columns {', '.join(map(repr, wanted))} {there}", file=file, hint=hint)


def _lists_of_pairs(source: Features) -> list[str]:
    """Return the columns that hold lists of whole pairs, as a file that is one object does."""
    elements = {name: getattr(kind, "feature", None) for name, kind in source.items()}
    return [name for name, kind in elements.items() if isinstance(kind, dict) and {*SIDES} <= kind.keys()]


def message_feature(columns: Sequence[Any], calls: bool = False) -> Any:
    """Return the type that holds the messages of all these columns: text fields if possible, else JSON objects.

    `calls`: whether some text of theirs is a tool call, which becomes an object.
    """
    if calls:
        return List(Json())
    keys = {"role": Value("string"), "content": Value("string")}
    for column in columns:
        if column is None or is_text(column):
            continue
        element = getattr(column, "feature", column)
        if not isinstance(element, dict):
            return List(Json())
        for name, kind in with_role(element).items():
            if _becomes_objects(name, kind) or (name != "content" and not is_text(kind)):
                return List(Json())
            keys[name] = Value("string")
    return List(keys)


def _becomes_objects(name: str, kind: Any) -> bool:
    """Whether a key of messages is read as objects, or makes keys of other names, such as thoughts in parts."""
    if name == "content":
        part = getattr(kind, "feature", None)
        return isinstance(part, Json) or (isinstance(part, dict) and not part.keys() <= {"type", "text"})
    return name in CALLS and kind != Value("null")


def is_text(feature: Any) -> bool:
    """Whether a column type holds text (or nothing but nulls)."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view", "null")


def holds_plain_texts(source: Features, columns: PairColumns) -> bool:
    """Whether the pairs of a source are texts with prompts of their own, and numbers."""
    sides = (columns.prompt, columns.chosen, columns.rejected)
    texts = all(name is not None and _is_one_of(source[name], "(large_)?string") for name in sides)
    # In CSV every cell is text.
    scores = all(name in source and _is_one_of(source[name], f"{_NUMBER}|string") for name in columns.scores)
    margins = all(_is_one_of(source[name], _NUMBER) for name in (*columns.margins, *columns.qualities))
    training = all(
        _is_one_of(source[name], f"{_NUMBER}|string" + "|bool" * (key == TIE)) for key, name in columns.of_training()
    )
    others = (columns.tools, columns.ratings_chosen, columns.ratings_rejected)
    parts = (columns.input, columns.system, columns.history)
    return texts and scores and margins and training and not any((*others, *parts))


def _is_one_of(feature: Any, kinds: str) -> bool:
    return isinstance(feature, Value) and re.fullmatch(kinds, feature.dtype) is not None


def nested_kind(features: Mapping[str, Any], path: str) -> Any:
    """Return the type of a column within others, such as `input.messages`; None if there is none."""
    kind: Any = features
    for name in path.split("."):
        if isinstance(kind, Json):
            return kind
        if not isinstance(kind, dict) or name not in kind:
            return None
        kind = kind[name]
    return kind
