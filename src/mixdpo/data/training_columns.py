"""Columns that say how a pair is to be trained: `weight/NAME`, `label_probability` and `tie`."""

from __future__ import annotations

import math
from typing import Any, Final

from mixdpo.data.messages import WrongType, kind_of

LABEL_PROBABILITY: Final = "label_probability"
"""Probability in [0, 1] that the label of a pair is right: that its chosen answer is the better one."""
TIE: Final = "tie"
"""Whether the two answers of a pair count as equally good."""

_WEIGHT: Final = "weight/"
_LARGEST_WEIGHT: Final = float.fromhex("0x1.fffffep127")
"""The largest number of float32, in which losses are multiplied."""
_TRUE: Final = ("true", "1", "1.0")
_FALSE: Final = ("false", "0", "0.0")

_HINTS: Final = {
    _WEIGHT: "write a number of 0 or more, or delete the row",
    LABEL_PROBABILITY: "write the probability that the label is right, from 0 to 1, or delete the row",
    TIE: "write true or false, or 1 or 0, or rename the column if it says something else",
}


def is_weight(name: str) -> bool:
    """Whether a column holds factors of the pairs' losses."""
    return name.startswith(_WEIGHT) and name != _WEIGHT


def says_how_to_train(name: str) -> bool:
    """Whether a column of pairs says how they are to be trained."""
    return is_weight(name) or name in (LABEL_PROBABILITY, TIE)


def largest(name: str) -> float:
    """Return the largest number that may stand in a column of weights or of label probabilities; the least is 0."""
    return _LARGEST_WEIGHT if is_weight(name) else 1.0


def training_value(name: str, value: Any) -> float | bool:
    """Return a cell of `weight/NAME`, `label_probability` (float) or `tie` (bool); text is what CSV has.

    Raises:
        WrongType: the cell holds what the column cannot.
    """
    if name == TIE:
        said = str(value).strip().lower()
        if said not in (*_TRUE, *_FALSE):
            raise WrongType(f"is {_in_words(value)}, neither true nor false")
        return said in _TRUE
    try:
        number = math.nan if value is None or isinstance(value, (bool, list, dict)) else float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= largest(name):
        wanted = (
            f"a weight of 0 or more, up to {_LARGEST_WEIGHT:.1e}" if is_weight(name) else "a probability from 0 to 1"
        )
        raise WrongType(f"is {_in_words(value)}, not {wanted}")
    return number


def hint(name: str) -> str:
    """Return what to do about a cell that the column `name` cannot hold."""
    return _HINTS[_WEIGHT if is_weight(name) else name]


def _in_words(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return f"{value!r:.40}" if isinstance(value, (str, int, float)) else kind_of(value)
