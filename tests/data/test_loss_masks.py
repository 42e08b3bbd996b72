"""Spans of text become spans of tokens; places that are not certain are none."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from mixdpo.data.loss_masks import PrefixTokens, RenderedText, _places, generated_spans, shared_spans, without
from tiny import byte_level_tokenizer

TEXT = "<|im_start|>user\nnö 🌧<|im_end|>\n<|im_start|>assistant\n  the brown fox\n\n<|im_end|>\n"


def trimming() -> PreTrainedTokenizerFast:
    """As Llama 3's: white space is in no token's span."""
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def rendered(tokenizer: PreTrainedTokenizerFast, prefixes: bool = False) -> RenderedText:
    encoded: Any = tokenizer([TEXT], add_special_tokens=False)
    ids = encoded["input_ids"][0]
    return RenderedText(TEXT, ids, PrefixTokens(tokenizer, TEXT, ids) if prefixes else encoded.encodings[0])


@pytest.mark.parametrize("make", [byte_level_tokenizer, trimming])
@pytest.mark.parametrize("prefixes", [False, True])
@pytest.mark.parametrize(
    "words", ["nö 🌧", "🌧<|im_end|>", "the brown fox", "  the brown fox\n\n<|im_end|>", "\n\n<|im_end|>"]
)
def test_the_tokens_of_a_span_hold_its_text_and_no_token_of_others(make: Any, prefixes: bool, words: str) -> None:
    tokenizer = make()
    text = rendered(tokenizer, prefixes)
    start = TEXT.index(words)
    first, last = text.tokens((start, start + len(words)))
    decoded = tokenizer.decode(text.ids[first:last])
    assert words in decoded
    # One token may straddle a border, no more.
    assert words not in tokenizer.decode(text.ids[first + 1 : last])
    assert words not in tokenizer.decode(text.ids[first : last - 1])


def test_an_empty_span_has_no_tokens() -> None:
    assert rendered(byte_level_tokenizer()).tokens((5, 5)) == (0, 0)


def test_pieces_that_stand_in_two_ways_have_no_place() -> None:
    assert _places(["a", "-", "-"], "ab-c-d", 6) == [0, 2, 4]
    assert _places(["a", "-"], "ab-c-d", 6) is None
    assert _places(["a", "-"], "xb-", 3) is None
    assert _places(["a", "+"], "ab-", 3) is None
    assert _places(["ab", "bc"], "abc", 3) is None


def test_spans_are_cut_and_met() -> None:
    assert without([(0, 10), (20, 30)], (5, 25)) == [(0, 5), (25, 30)]
    assert without([(0, 10)], (0, 0)) == without([(0, 10)], (12, 20)) == [(0, 10)]
    assert shared_spans([(0, 10), (20, 30)], [(5, 25)]) == [(5, 10), (20, 25)]
    assert generated_spans([1, 1, 0, 1, 1, 0, 1], 1) == [(1, 2), (3, 5), (6, 7)]
