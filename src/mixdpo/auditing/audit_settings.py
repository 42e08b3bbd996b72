"""What an audit looks at and when it raises an alarm."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixdpo.common.errors import InputError
from mixdpo.common.settings import check_seed


@dataclass(kw_only=True, frozen=True)
class AuditSettings:
    """Settings of an audit.

    Raises:
        InputError: a value is out of its range.
    """

    metric: str | None = field(
        default=None,
        metadata={"help": "margins the plan preview and the buckets are made from; null: rating, else the first"},
    )
    pairs_per_step: int = field(default=160, metadata={"help": "pairs per optimizer step in the plan preview"})
    max_lengths: tuple[int, ...] = field(
        default=(512, 1024, 2048, 4096), metadata={"help": "tokens of prompt and answer at which cuts are counted"}
    )
    max_length: int = field(default=1024, metadata={"help": "tokens of prompt and answer that training will keep"})
    near_duplicates: bool = field(default=True, metadata={"help": "look for near-duplicates (the slowest part)"})
    near_similarity: float = field(
        default=0.8, metadata={"help": "Jaccard similarity of word 3-grams from which texts are near-duplicates"}
    )
    leak_ngram: int = field(
        default=8, metadata={"help": "words of the n-grams that are compared with evaluation sets"}
    )
    leak_share: float = field(
        default=0.5, metadata={"help": "share of an evaluation prompt's n-grams in one prompt that makes it a leak"}
    )
    style_pairs: int = field(default=20_000, metadata={"help": "pairs the style classifier is fitted on, at most"})
    token_pairs: int = field(default=4_000, metadata={"help": "pairs that are tokenised, at most, a random subset"})
    examples: int = field(default=8, metadata={"help": "examples shown per finding and per bucket"})
    seed: int = field(default=42, metadata={"help": "decides subsets, bootstrap and examples"})

    def __post_init__(self) -> None:
        for name in ("pairs_per_step", "max_length", "leak_ngram", "style_pairs", "token_pairs", "examples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("near_similarity", "leak_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        check_seed(self.seed)
