"""Lists of token ids: their common beginning, and the special tokens at their ends."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]

ENDS_OF_TURN: Final = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|call|>", "<|return|>", "<end_of_turn>"),
    *("<|END_OF_TURN_TOKEN|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>"),
)
"""What chat formats end a turn with: a text that ends so is ended, whatever the tokenizer's EOS is."""


def shared_length(first: Sequence[int], *others: Sequence[int]) -> int:
    """Return the length of the longest common beginning."""
    if all(ids[: len(first)] == first for ids in others):
        return len(first)
    columns = zip(first, *others, strict=False)
    return next(i for i, column in enumerate([*columns, None]) if column is None or len(set(column)) > 1)


def alike(first: str, second: str) -> int:
    """Return the length of the longest common beginning of two texts."""
    if first.startswith(second):
        return len(second)
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))


@dataclass(frozen=True)
class EndTokens:
    """The special tokens of a tokenizer that may end an answer: all but those of the beginning and the unknown."""

    tokenizer: PreTrainedTokenizerBase
    _blanks: dict[int, bool] = field(init=False, default_factory=dict)

    @cached_property
    def ids(self) -> frozenset[int]:
        """Their ids."""
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special -= {tokenizer.unk_token_id, tokenizer.bos_token_id}
        if tokenizer.eos_token_id is not None:
            special.add(tokenizer.eos_token_id)
        return frozenset(special)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds their texts."""
        return re.compile("|".join(map(re.escape, sorted(self.texts, key=len, reverse=True))) or r"(?!)")

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Their texts."""
        return tuple(self.tokenizer.convert_ids_to_tokens(sorted(self.ids)))

    def close(self, answer: Sequence[int], among: Collection[int] | None = None) -> bool:
        """Whether one of them, or of those `among` them, ends the answer; many templates write a line break behind."""
        ids = self.ids if among is None else among
        return next((token in ids for token in reversed(answer) if not self.is_blank(token)), False)

    def of_turns(self, token: str) -> re.Pattern[str]:
        """Return what finds the tokens that end a turn in a conversation: `token`, EOS and those of known formats."""
        known: set[str] = {text for text in ENDS_OF_TURN if text in self.texts}
        known |= {token, str(self.tokenizer.eos_token or token)}
        return re.compile("|".join(map(re.escape, known)))

    def say_nothing(self, answer: Sequence[int]) -> bool:
        """Whether an answer is nothing but end tokens and white space."""
        return all(token in self.ids or self.is_blank(token) for token in answer)

    def is_blank(self, token: int) -> bool:
        """Whether a token is white space."""
        if token not in self._blanks:
            self._blanks[token] = token not in self.ids and not str(self.tokenizer.decode([token])).strip()
        return self._blanks[token]
