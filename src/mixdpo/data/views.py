"""Rows of a source seen as rows of pairs: nested columns, messages kept as text, layouts of other projects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from datasets import Features, Json, List, Value

from mixdpo.data.columns import is_text, nested_kind
from mixdpo.data.messages import kind_of
from mixdpo.data.printed import parse_text

Row = Mapping[str, Any]

_LIKE_MESSAGES: Final = re.compile(
    r"\s*(?:array\()?(?:\[\s*)?\{\s*['\"](?:role|from|content|value)['\"]\s*:"
    # Other keys may stand in front, the list may lie in an object or a tuple, and JSON may have been written twice.
    r"|[\"\s]*(?:array\()?[\[({].{0,200}?['\"](?:role|from)\\?['\"]\s*:\s*\\?['\"](?:system|user|human|assistant|gpt)\\?['\"]",
    re.DOTALL,
)
_WITHIN: Final = ("messages", "conversations", "conversation")
"""Keys of an object under which messages may lie."""


class ViewFault(Exception):
    """A value that a view cannot read; the message completes "the value ..."."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(problem)
        self.column = column


@dataclass(frozen=True, kw_only=True)
class View:
    """How the rows of a source become rows of pairs.

    Attributes:
        name: says how; another way has another name.
        features: the columns of the rows that it makes.
        rows: from a row of the source to such rows, usually one; raises `ViewFault` or `DropPair`.
        reads: columns of the source that it takes apart.
        parses: columns of the source whose texts hold messages.
    """

    name: str
    features: Features = field(repr=False)
    rows: Callable[[Row], Sequence[Row]] = field(repr=False)
    reads: tuple[str, ...] = ()
    parses: tuple[str, ...] = ()


def chained(first: View | None, second: View | None) -> View | None:
    """Return the view through `first` and then `second`, either of which may be None."""
    if first is None or second is None:
        return first or second
    return View(
        name=f"{first.name}, {second.name}",
        features=second.features,
        rows=lambda row: [made for seen in first.rows(row) for made in second.rows(seen)],
        reads=first.reads + second.reads,
        parses=first.parses + second.parses,
    )


def view_nested(features: Features, names: Iterable[str]) -> View | None:
    """Return a view with those of the columns `names` that lie within others, such as `input.messages`."""
    found = {name: kind for name in names if name not in features and (kind := nested_kind(features, name))}
    if not found:
        return None
    return View(
        name=f"nested {', '.join(found)}",
        features=Features({**features, **found}),
        rows=lambda row: [{**row, **{name: _nested(row, name) for name in found}}],
        reads=tuple(dict.fromkeys(name.partition(".")[0] for name in found)),
    )


def view_text_as_messages(features: Features, names: Iterable[str], rows: Sequence[Row]) -> View | None:
    """Return a view in which messages that the columns `names` keep as text are messages.

    A column keeps them so if most of the first `rows` do. Other texts in it stay texts.
    """
    found = tuple(name for name in names if is_text(features[name]) and _hold_messages([row[name] for row in rows]))
    if not found:
        return None
    return View(
        name=f"messages as text in {', '.join(found)}",
        features=Features({**features, **dict.fromkeys(found, List(Json()))}),
        rows=lambda row: [{**row, **{name: _parsed(row[name], name) for name in found}}],
        parses=found,
    )


def view_text_as_data(features: Features, names: Iterable[str], rows: Sequence[Row]) -> View | None:
    """Return a view in which the lists and objects that the columns `names` keep as text are those.

    A column keeps them so if all the first `rows` that say anything do.
    """
    kinds = {name: _kind_of_data([row[name] for row in rows]) for name in names if is_text(features.get(name))}
    found = {name: kind for name, kind in kinds.items() if kind is not None}
    if not found:
        return None
    return View(
        name=f"lists as text in {', '.join(found)}",
        features=Features({**features, **found}),
        rows=lambda row: [{**row, **{name: _parsed_data(row[name], name) for name in found}}],
        parses=tuple(found),
    )


def _hold_messages(texts: Sequence[Any]) -> bool:
    said = [text for text in texts if isinstance(text, str) and text.strip()]
    return bool(said) and 2 * sum(_LIKE_MESSAGES.match(text) is not None for text in said) > len(said)


def _kind_of_data(texts: Sequence[Any]) -> Any:
    """Return the type of the lists or objects that texts hold, None if they hold none."""
    said = [text for text in texts if isinstance(text, str) and text.strip()]
    if not said or not all(text.lstrip().removeprefix("array(")[:1] in ("[", "{") for text in said):
        return None
    try:
        values = [parse_text(text) for text in said]
    except ValueError:
        return None
    if not all(isinstance(value, list) for value in values):
        return Json() if all(isinstance(value, Mapping) for value in values) else None
    items = [item for value in values for item in value if item is not None]
    if all(isinstance(item, str) for item in items):
        return List(Value("string"))
    is_number = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items)
    return List(Value("float64")) if is_number else List(Json())


def _parsed_data(text: Any, column: str) -> Any:
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        return parse_text(text)
    except ValueError as error:
        raise ViewFault(column, f"is not a list as in the first rows ({error})") from error


def _parsed(text: Any, column: str) -> Any:
    if not isinstance(text, str) or not _LIKE_MESSAGES.match(text):
        return text
    try:
        return _messages(parse_text(text))
    except ValueError as error:
        raise ViewFault(column, f"looks like messages kept as text and cannot be read ({error})") from error


def _messages(value: Any) -> Any:
    if isinstance(value, str):
        value = parse_text(value)
    if isinstance(value, Mapping):
        return next((value[name] for name in _WITHIN if isinstance(value.get(name), list)), value)
    return list(value) if isinstance(value, tuple) else value


def _nested(row: Row, path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ViewFault(path, f"lies in {kind_of(value)}, not in an object")
        value = value.get(name)
    return value
