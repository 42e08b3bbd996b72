"""Word n-grams as numbers, and MinHash signatures of them, vectorised over many texts.

Legend: T texts, W words of all texts, G n-grams of all texts, K hash functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

NGRAM: Final = 3
"""Words of an n-gram by which texts are compared for near-duplicates."""

_WORD: Final = r"\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Thai}|[\p{Alphabetic}\p{Nd}]+"
"""A word; in scripts without spaces, a character."""

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_ABSENT: Final = np.uint64(0xD1B54A32D192ED03)
_GRAMS_AT_ONCE: Final = 1 << 15
"""Fits a core's cache."""


@dataclass(frozen=True, eq=False)
class Shingles:
    """The n-grams of T texts: `grams` (uint64, shape (G,)), text t has `grams[starts[t]:starts[t + 1]]`."""

    grams: np.ndarray
    starts: np.ndarray

    def owners(self) -> np.ndarray:
        """Return the text of each n-gram; int64, shape (G,)."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def shingles(texts: pl.Series, n: int) -> Shingles:
    """Hash every run of `n` words of each text, whatever its case and punctuation.

    A text of fewer words is one n-gram of all of them; a text without words has none.
    """
    words = texts.str.to_lowercase().str.extract_all(_WORD)
    counts = words.list.len().to_numpy().astype(np.int64)
    hashes = words.explode(empty_as_null=False, keep_nulls=False).hash(seed=0).to_numpy()
    first = np.concatenate([[0], np.cumsum(counts)])
    ends = np.repeat(first[1:], counts)
    at = np.arange(len(hashes))
    padded = np.concatenate([hashes, np.full(n, _ABSENT)])
    grams = np.zeros(len(hashes), dtype=np.uint64)
    for k in range(n):
        inside = at + k < ends
        grams = grams * _MIX + np.where(inside, padded[k : k + len(hashes)], _ABSENT)
    # A text of fewer words keeps its first n-gram, which is padded.
    whole = (at + n <= ends) | (at == np.repeat(first[:-1], counts))
    starts = np.concatenate([[0], np.cumsum(whole)])
    return Shingles(grams=grams[whole], starts=starts[first])


def minhash(parts: Shingles, functions: int, rng: np.random.Generator) -> np.ndarray:
    """Return MinHash signatures, uint32 of shape (T, K): the share of equal entries estimates the Jaccard similarity.

    The standard error is sqrt(J (1 - J) / K). Texts without n-grams get the signature of all ones.
    """
    factors = rng.integers(0, 2**31, functions, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    offsets = rng.integers(0, 2**32, functions, dtype=np.uint32)
    hashes = ((parts.grams ^ (parts.grams >> np.uint64(29))) * _MIX >> np.uint64(32)).astype(np.uint32)
    lengths = np.diff(parts.starts)
    result = np.full((len(lengths), functions), np.iinfo(np.uint32).max, dtype=np.uint32)
    filled = np.flatnonzero(lengths)
    if len(filled) == 0:
        return result
    # Cut between texts, about every _GRAMS_AT_ONCE n-grams.
    cuts = np.searchsorted(parts.starts[filled], np.arange(0, len(hashes), _GRAMS_AT_ONCE))
    for low, high in zip(cuts, [*cuts[1:], len(filled)], strict=True):
        if low == high:
            continue
        chosen = filled[low:high]
        begin, end = parts.starts[chosen[0]], parts.starts[chosen[-1] + 1]
        chunk, starts = hashes[begin:end], parts.starts[chosen] - begin
        for k in range(functions):
            result[chosen, k] = np.minimum.reduceat(chunk * factors[k] + offsets[k], starts)
    return result
