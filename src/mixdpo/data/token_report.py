"""What tokenisation did to the pairs: counts, and lengths in tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

DROPS: Final[dict[str, str]] = {
    "prompt_too_long": "pairs dropped because the prompt leaves no room for an answer within max_length",
    "no_shared_tokens": "pairs dropped because the ids of prompt and answers do not begin alike",
    "not_rendered": "pairs dropped because the chat template writes nothing for an answer",
    "only_end_token": "pairs dropped because the chat template leaves nothing of an answer but its end token",
    "turns_unclear": "pairs dropped because it is not certain which tokens of an answer of several turns are the "
    "assistant's",
    "nothing_trained": "pairs dropped because within max_length an answer has no token that is trained",
    "template_refused": "pairs dropped because the chat template refuses their messages",
}
ALARMS: Final[dict[str, str]] = {
    "lost_content": "pairs with a message whose content the chat template leaves out",
    "lost_thinking": "pairs with an answer whose reasoning the chat template leaves out",
    "lost_tool_calls": "pairs with a tool call whose name or arguments the chat template leaves out",
    "same_after_template": "pairs whose answers the chat template makes equal: no preference can be learned from them",
    "same_after_truncation": "pairs whose answers differ only in what was cut: no preference can be learned from them",
    "next_header": "pairs with the header of a next answer behind their end token, which is not trained: the chat "
    "template always writes it",
    "second_end": "pairs with an answer that brings an end token of its own, so that it has two",
    "bos_in_answer": "pairs with a BOS token inside an answer",
    "special_in_text": "pairs with the text of a special token inside a message",
}
NOTES: Final[dict[str, str]] = {
    "prompt_truncated": "prompts cut on the left to max_prompt_length",
    "chosen_truncated": "chosen answers cut on the right to max_length: their end token is lost",
    "rejected_truncated": "rejected answers cut on the right to max_length: their end token is lost",
    "boundary_moved": "pairs whose prompt ids end before the rendered prompt does: the rest went to the answers",
    "eos_appended": "answers that got an EOS token, because the chat template closes them with no special token",
    "untrained_turns": "pairs with an answer of several turns, of which the assistant's alone are trained",
    "empty_thinking": "answers whose empty think block is not trained",
    "earlier_thinking": "pairs with reasoning in an earlier turn, which the chat template leaves out there",
}
COUNTS: Final[dict[str, str]] = {**DROPS, **ALARMS, **NOTES}
"""What is counted: pairs, but of `eos_appended` and `empty_thinking` answers. Those of `DROPS` and `ALARMS` are warned
about where they touch more than one pair in a hundred."""

WARNED_SHARE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class TokenReport:
    """What tokenisation did.

    Attributes:
        pairs: pairs in the result.
        counts: how often each of `COUNTS` happened.
        lengths: by `prompt`, `chosen`, `rejected`: mean, p50, p95 and max of the tokens after truncation.
        refusal: the chat template's first refusal, None without.
        first: by count, the row of the first pair that it touched: the row of the file where the pairs know it, else
            the number of the pair, both from 1.
    """

    pairs: int
    counts: dict[str, int]
    lengths: dict[str, dict[str, float]]
    refusal: str | None = None
    first: dict[str, int] = field(default_factory=dict)

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
        return [*lines, *(self.line(name) for name, count in self.counts.items() if count)]

    def line(self, name: str) -> str:
        """Say how often something happened, and where first."""
        first = f" (first: row {self.first[name]:,})" if name in self.first else ""
        reason = f": {self.refusal}" if name == "template_refused" and self.refusal else ""
        return f"{self.counts[name]:,} {COUNTS[name]}{reason}{first}"

    def alarms(self) -> list[str]:
        """Return the names of what a person should know of: it costs or spoils more than one pair in a hundred."""
        read = self.pairs + sum(self.counts[name] for name in DROPS)
        return [name for name in (*DROPS, *ALARMS) if self.counts[name] > WARNED_SHARE * read]

    def log(self, logger: logging.Logger, of: str) -> None:
        """Write the report to a log, `alarms` as warnings; `of` is what it is about."""
        alarms = [self.line(name) for name in self.alarms()]
        for line in self.lines():
            logger.log(logging.WARNING if line in alarms else logging.INFO, "%s tokens: %s", of, line)


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
