"""Fixtures of the tests of generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from answering import QUESTIONS
from tiny import saved, tiny_llama


@pytest.fixture
def model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    return Path(saved(tiny_llama(vocab_size=len(tokenizer), positions=512), tokenizer, tmp_path / "tiny"))


@pytest.fixture
def questions(jsonl: Callable[..., str]) -> str:
    return jsonl([{"instruction": question} for question in QUESTIONS], "questions.jsonl")
