"""What tokenisation did to the pairs: counts, and lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

DROPS: Final[dict[str, str]] = {
    "prompt_too_long": "pairs dropped because the prompt leaves no room for an answer within max_length",
    "no_shared_tokens": "pairs dropped because the ids of prompt and answers do not begin alike",
    "not_rendered": "pairs dropped because the chat template writes nothing for an answer",
    "template_refused": "pairs dropped because the chat template refuses their messages",
}
COUNTS: Final[dict[str, str]] = {
    **DROPS,
    "prompt_truncated": "prompts cut on the left to max_prompt_length",
    "chosen_truncated": "chosen answers cut on the right to max_length: their end token is lost",
    "rejected_truncated": "rejected answers cut on the right to max_length: their end token is lost",
    "same_after_truncation": "pairs whose answers differ only in what was cut: no preference can be learned from them",
    "boundary_moved": "pairs whose prompt ids end before the rendered prompt does: the rest went to the answers",
    "eos_appended": "answers that got an EOS token, because the chat template closes them with no special token",
}
"""What is counted; all but `eos_appended` (answers) are pairs."""


@dataclass(frozen=True, kw_only=True)
class TokenReport:
    """What tokenisation did.

    Attributes:
        pairs: pairs in the result.
        counts: how often each of `COUNTS` happened.
        lengths: by `prompt`, `chosen`, `rejected`: mean, p50, p95 and max of the tokens after truncation.
        refusal: the chat template's first refusal, None without.
    """

    pairs: int
    counts: dict[str, int]
    lengths: dict[str, dict[str, float]]
    refusal: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report for a person: lengths, then whatever happened at least once."""
        lengths = ", ".join(
            f"{side} {values['mean']:.0f} (95 %: {values['p95']:.0f}, longest {values['max']:.0f})"
            for side, values in self.lengths.items()
        )
        lines = [f"{self.pairs:,} pairs; mean tokens: {lengths}"]
        lines += [f"{count:,} {COUNTS[name]}" for name, count in self.counts.items() if count]
        return lines + ([f"  the template's first refusal: {self.refusal}"] if self.refusal else [])


def length_statistics(lengths: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return mean, median, 95th percentile and maximum of each series of lengths (int, shape (N,), N > 0)."""
    return {
        side: {
            "mean": float(values.mean()),
            "p50": float(np.percentile(values, 50)),
            "p95": float(np.percentile(values, 95)),
            "max": float(values.max()),
        }
        for side, values in lengths.items()
    }
