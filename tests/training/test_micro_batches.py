"""Cutting a device's batch into micro-batches."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixdpo.training.batch import collate_parts
from mixdpo.training.micro_batches import PairSize, TokenBudget, even_parts, fewest_parts
from mixdpo.training.sampling import PlanSampler
from synthetic import chat_pairs
from tiny import tiny_llama
from trainers import trainer_for

SIZES = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)).map(
        lambda lengths: PairSize(sum(lengths), 1 + (lengths[2] > 0), lengths[0] + max(lengths[1:]))
    ),
    min_size=1,
    max_size=6,
)


def tokens_of(sizes, lengths, padded) -> list[int]:
    ends = list(itertools.accumulate(lengths))
    return [
        TokenBudget(None, padded).computed(sizes[end - length : end])
        for end, length in zip(ends, lengths, strict=True)
    ]


def every_cut(count: int, parts: int):
    for places in itertools.combinations(range(1, count), parts - 1):
        ends = [0, *places, count]
        yield [b - a for a, b in itertools.pairwise(ends)]


@settings(deadline=None, max_examples=60)
@given(sizes=SIZES, tokens=st.integers(1, 60), padded=st.booleans(), data=st.data())
def test_parts_are_as_few_and_as_even_as_can_be(sizes, tokens, padded, data) -> None:
    few = fewest_parts(sizes, tokens, padded)
    alone = max(tokens_of(sizes, [1] * len(sizes), padded))
    assert sum(few) == len(sizes)
    assert max(tokens_of(sizes, few, padded)) <= max(tokens, alone)
    for parts in range(1, len(few)):
        assert all(max(tokens_of(sizes, cut, padded)) > max(tokens, 0) for cut in every_cut(len(sizes), parts))
    number = data.draw(st.integers(len(few), len(sizes)))
    even = even_parts(sizes, number, padded)
    assert len(even) == number
    assert sum(even) == len(sizes)
    assert min(even) > 0
    best = min(max(tokens_of(sizes, cut, padded)) for cut in every_cut(len(sizes), number))
    assert max(tokens_of(sizes, even, padded)) == best


@pytest.mark.parametrize("engine", ["packed", "padded"])
def test_processes_cut_batches_of_the_same_time_into_equally_many(engine, tokenizer, tmp_path) -> None:
    pairs = chat_pairs(tmp_path, n=30)
    model = tiny_llama(vocab_size=len(tokenizer))
    trainer = trainer_for(copy.deepcopy(model), tokenizer, pairs, tmp_path / "run", engine=engine)
    planned, padded = trainer.train_dataset, engine == "padded"
    longest = max(planned[row].size.tokens for row in range(30)) * (2 if padded else 1)
    sampler = PlanSampler(planned, 1, batch=3, processes=2, window=6, budget=TokenBudget(longest, padded))
    items = [planned[place] for place in sampler]
    assert [item.row for item in items if item.weight] == [row for row in sampler.rows_of_epoch(0) if row >= 0]
    most = 0
    for round_ in range(0, len(items), 6):
        batches = [items[round_ : round_ + 3], items[round_ + 3 : round_ + 6]]
        parts = [collate_parts(batch, trainer._lay_out)["parts"] for batch in batches]
        assert len(parts[0]) == len(parts[1])
        most = max(most, len(parts[0]))
        tokens = [part["rows"]["input_ids"].numel() for of_process in parts for part in of_process]
        assert max(tokens) <= longest
    assert most > 1
