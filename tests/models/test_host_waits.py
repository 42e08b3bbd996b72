"""Nothing in a forward or backward pass makes the host wait for the device; counted without a GPU, by operation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixdpo.models.engine import completion_hidden_sums, completion_scores, pack_rows, pad_rows, prepare_packing
from prompt_groups import groups_of
from tiny import tiny_llama

PACKED, PADDED = "packed", "padded"
# Operations whose result, or whose result's size, the host has to know before it can go on.
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "repeat_interleave"}


class Waits(TorchDispatchMode):
    """Counts what would wait on a GPU: the operations of that name, and places chosen by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = tree_leaves(args[1]) if name.strip("_") in ("index", "index_put", "index_put_impl") else ()
        if name in WAITING or any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


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
    else:
        model.set_attn_implementation("eager")  # transformers asks before SDPA whether anything is padded
    rows = pack_rows(groups) if layout == PACKED else pad_rows(groups, 0)
    with Waits() as waits:
        scores = completion_scores(model, rows, alignment=True, shared_length=True)
        (scores.logprob + scores.shared_logprob).sum().backward()
        completion_hidden_sums(model, rows)
    assert not waits.found
