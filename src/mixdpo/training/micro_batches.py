"""How a device's batch is cut into micro-batches: into equally many on all processes, none over a budget of tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class PairSize(NamedTuple):
    """What a pair brings to a micro-batch.

    Attributes:
        tokens: of its prompt, counted once, and of the completions that a step computes.
        sequences: number of those completions.
        longest: tokens of the prompt with the longest of them.
    """

    tokens: int
    sequences: int
    longest: int


@dataclass
class TokenBudget:
    """Tokens that a micro-batch computes at most.

    Attributes:
        tokens: the limit, None without. Known only before the first step where it is found by the memory there is.
        padded: whether every completion is a row of its own, padded to the longest; else a prompt counts once.
    """

    tokens: int | None
    padded: bool

    def computed(self, part: Sequence[PairSize]) -> int:
        """Return the tokens that a micro-batch of such pairs computes."""
        if self.padded:
            return sum(size.sequences for size in part) * max(size.longest for size in part)
        return sum(size.tokens for size in part)


def fewest_parts(sizes: Sequence[PairSize], tokens: int, padded: bool) -> list[int]:
    """Return the numbers of pairs of consecutive parts, as few as there can be of at most `tokens` each.

    A pair that is larger makes a part of its own.
    """
    parts: list[int] = []
    total = rows = longest = 0
    for size in sizes:
        total, rows, longest = total + size.tokens, rows + size.sequences, max(longest, size.longest)
        if not parts or (rows * longest if padded else total) > tokens:
            parts.append(0)
            total, rows, longest = size
        parts[-1] += 1
    return parts


def even_parts(sizes: Sequence[PairSize], number: int, padded: bool) -> list[int]:
    """Return the numbers of pairs of `number` consecutive parts, the largest of which is as small as can be.

    No part is empty, so there must be at least `number` pairs.
    """
    if number == 1:
        return [len(sizes)]
    most = TokenBudget(None, padded).computed(sizes)
    tokens = bisect_left(range(most), -number, key=lambda tokens: -len(fewest_parts(sizes, tokens, padded)))
    parts = fewest_parts(sizes, tokens, padded)
    while len(parts) < number:  # fewer would do
        largest = parts.index(max(parts))
        parts[largest : largest + 1] = [parts[largest] - parts[largest] // 2, parts[largest] // 2]
    return parts
