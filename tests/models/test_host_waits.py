"""Nothing in a forward or backward pass makes the host wait for the device; counted without a GPU, by operation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixdpo.models.engine import completion_hidden_sums, completion_scores, pack_rows, pad_rows, prepare_packing
from prompt_groups import groups_of
from tiny import tiny_llama
from waits import Waits

PACKED, PADDED = "packed", "padded"


def test_the_counter_counts() -> None:
    values = torch.randn(4, requires_grad=True)
    with Waits() as waits:
        values[values > 0].sum().backward()
        values.sum().item()
    assert waits.found["index"] == 1
    assert waits.found["_local_scalar_dense"] == 1
    assert waits.found.total() == 3  # and where the gradient goes back to those places


@pytest.mark.parametrize("layout", [PACKED, PADDED])
def test_scores_wait_for_nothing(layout) -> None:
    model = tiny_llama()
    groups = groups_of((4, [9, 7]), (3, [1, 8]))
    groups[0] = replace(groups[0], masks=[[True, False] * 4 + [True], [True] * 3 + [False] * 4])
    if layout == PACKED:
        assert prepare_packing(model, on_gpu=False) is None
    rows = pack_rows(groups) if layout == PACKED else pad_rows(groups, 0)
    with Waits() as waits:
        scores = completion_scores(model, rows, alignment=True, shared_length=True, score_norms=layout == PACKED)
        (scores.logprob + scores.shared_logprob).sum().backward()
        completion_hidden_sums(model, rows)
    assert not waits.found
