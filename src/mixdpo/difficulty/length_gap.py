"""The length metric: by how much one answer is longer than the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import numpy as np

from mixdpo.difficulty.texts import answer_texts

if TYPE_CHECKING:
    from datasets import Dataset

_PAIRS_AT_ONCE: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class LengthGapSettings:
    """Settings of the metric `length_gap`."""

    tokenizer: str | None = field(
        default=None, metadata={"help": "folder or hub id whose tokens are counted; null: characters"}
    )
    signed: bool = field(
        default=False, metadata={"help": "chosen minus rejected, instead of the size of the difference alone"}
    )


def length_gap_margin(dataset: Dataset, settings: LengthGapSettings) -> np.ndarray:
    """Return |log((1 + length of chosen) / (1 + length of rejected))|, float64 of shape (N,).

    A ratio, since ten words more change an answer of ten and not one of five hundred. Without the sign it says
    how unlike the answers are, as `embedding` does: lengths are what a model sees first, so a pair is easy when they
    differ and hard when only the content does. With the sign it says that longer is better, which most judges of
    answers believe: a pair is easy when the chosen answer is the longer one.

    Raises:
        InputError: the tokenizer cannot be loaded.
    """
    texts = answer_texts(dataset)
    lengths = _characters(texts) if settings.tokenizer is None else _tokens(texts, settings.tokenizer)
    log_N2 = np.log1p(np.fromiter(lengths, dtype=np.float64, count=2 * len(dataset)).reshape(-1, 2))
    gap = log_N2[:, 0] - log_N2[:, 1]
    return gap if settings.signed else np.abs(gap)


def _characters(texts: Iterator[tuple[str, str]]) -> Iterator[int]:
    return (len(text) for pair in texts for text in pair)


def _tokens(texts: Iterator[tuple[str, str]], name: str) -> Iterator[int]:
    from mixdpo.models.loading import load_tokenizer
    from mixdpo.models.model_settings import ModelSettings

    tokenizer = load_tokenizer(ModelSettings(name_or_path=name))
    while pairs := list(islice(texts, _PAIRS_AT_ONCE)):
        ids = tokenizer(list(chain.from_iterable(pairs)), add_special_tokens=False)["input_ids"]
        yield from map(len, ids)
