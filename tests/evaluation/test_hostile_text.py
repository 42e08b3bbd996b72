"""Answers and replies made to be slow to read are read in linear time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mixdpo.data.reasoning import split_reasoning
from mixdpo.evaluation.benchmarks.alpaca_eval import ranking_score
from mixdpo.evaluation.benchmarks.mt_bench import parse_rating
from mixdpo.evaluation.constraints import KINDS, Constraint
from mixdpo.evaluation.statistics.style import markdown_counts

LENGTH = 50_000
HOSTILE = {
    "empty lines": "a" + "\n" * LENGTH + "b",
    "lines of blanks": "a" + "\n \t" * LENGTH + "b",
    "blanks": " " * LENGTH + "b",
    "marks": "a" + "!" * LENGTH + "b",
    "closed quotes": "a" + "!)" * LENGTH + "b",
    "brackets": "[" * LENGTH,
    "digits": "[[" + "1" * LENGTH,
    "stars": "**a" * LENGTH,
    "channel": "<|channel|>" + "a" * LENGTH,
    "channels": "<|channel|>" * (LENGTH // 11),
}


@contextmanager
def soon() -> Iterator[None]:
    """Quadratic time was 15 to 100 seconds for these, linear time is some milliseconds."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 2


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_linear_time(text: str) -> None:
    with soon():
        markdown_counts(text)
        parse_rating(text)
        ranking_score(text)
        split_reasoning(text)
        split_reasoning(text, opened=True)
    with soon():
        for name, kind in KINDS.items():
            Constraint(name, {argument: values[0] for argument, values in kind.choices.items()}).is_met(text)


def test_list_items_are_counted_as_they_were_published() -> None:
    assert markdown_counts("\n \n 1. one\n\t2. two\r\n\n- \n\n*\tthree\n+\nx - no\n 10.no")[1] == 5


def test_ratings_of_every_form() -> None:
    assert [parse_rating(f"so [[{text}]]") for text in ("7", "7.5", "7.", "10.0", "7.5.1", ".5", "11")] == [
        7, 7.5, 7, 10, None, None, None,
    ]  # fmt: skip
