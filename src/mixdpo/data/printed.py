"""Lists and objects that a cell of text holds: as JSON, or as Python, pandas and numpy print them into CSV."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any, Final

from mixdpo.common.json_text import parse_json, too_deep_at

_LONGEST_PYTHON: Final = 1 << 22  # characters; Python's parser takes some hundred times as many bytes
_NEIGHBOURS: Final = re.compile(r"['\"]\s+['\"]")
"""Where Python would join two texts that numpy prints as two elements."""
_LAYOUT: Final = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_WORDS: Final = {"nan": None, "NaN": None, "NaT": None, "null": None, "true": True, "false": False}
"""Words for nothing, true and false that are none of Python's."""
_UNREADABLE: Final = "it is neither JSON nor what Python prints"


def parse_text(text: str) -> Any:
    """Return the list or object that a text holds as JSON or as Python prints it.

    Raises:
        ValueError: it cannot be read, is nested too deeply or is too long; the message says which.
    """
    try:
        return parse_json(text)
    except ValueError:
        if too_deep_at(text) is not None:
            raise ValueError("it is nested too deeply") from None
    if len(text) > _LONGEST_PYTHON:
        raise ValueError(f"it is no JSON, and longer than {_LONGEST_PYTHON:,} characters")
    try:
        if _NEIGHBOURS.search(text) is None:
            try:
                return ast.literal_eval(text.strip())
            except (SyntaxError, ValueError, TypeError):
                pass  # numpy's, perhaps
        return _value(ast.parse("".join(_with_commas(text)).strip(), mode="eval").body)
    except (RecursionError, MemoryError):
        raise ValueError("it is nested too deeply") from None
    except SyntaxError as error:
        raise ValueError("it is nested too deeply" if "too many nested" in str(error) else _UNREADABLE) from None
    except (ValueError, TypeError, tokenize.TokenError):
        raise ValueError(_UNREADABLE) from None


def _with_commas(text: str) -> Iterator[str]:
    """Yield the tokens of a printed value, with commas between the elements of numpy's arrays, which have none."""
    before: tokenize.TokenInfo | None = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _LAYOUT:
            continue
        yield ", " if before is not None and _part(before, token) else " "
        yield token.string
        before = token


def _part(first: tokenize.TokenInfo, second: tokenize.TokenInfo) -> bool:
    """Whether one element ends with the first token, and the next one begins with the second."""
    apart = first.end != second.start
    values = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
    ends = first.type in values or first.string in ("]", "}", ")")
    return ends and apart and (second.type in values or second.string in ("[", "{", "-"))


def _value(node: ast.expr) -> Any:
    """Return what a parsed value is; raises `ValueError` of anything but values."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array" and node.args:
        return _value(node.args[0])  # its type is no part of it
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, int, float))):
        return node.value
    raise ValueError("it is no value")
