"""Which row of which file a loaded pair was made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mixdpo.data.sources import RawSource


@dataclass(frozen=True)
class PairOrigins:
    """The origins of loaded pairs, kept beside them: a column would make the same pair of two files differ.

    Attributes:
        sources: what was read.
        source: index in `sources` of each pair, int32, shape (N,).
        row: index in the data set of that source, int64, shape (N,).
    """

    sources: Sequence[RawSource]
    source: np.ndarray
    row: np.ndarray

    def locate(self, pairs: Iterable[int]) -> list[tuple[str, int]]:
        """Return the file and the row in it (from 1, as an editor shows it) of pairs of the loaded data set."""
        wanted = np.fromiter(pairs, dtype=np.int64)
        places: dict[int, tuple[str, int]] = {}
        for number, source in enumerate(self.sources):
            own = wanted[self.source[wanted] == number]
            places.update(zip(own.tolist(), source.locate(self.row[own].tolist()), strict=True))
        return [places[pair] for pair in wanted.tolist()]
