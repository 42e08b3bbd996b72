"""Memory of the language-model head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from live_bytes import LiveBytes
from mixdpo.models.engine import lm_head as head_module
from mixdpo.models.engine.lm_head import target_scores

TILE = 2**18  # elements


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_tile_is_alive_at_a_time(dtype, monkeypatch) -> None:
    monkeypatch.setitem(head_module._TILE_ELEMENTS, "cpu", TILE)
    monkeypatch.setitem(head_module._KEPT_BYTES, "cpu", 0)
    head = nn.Linear(8, 16 * TILE // 512, bias=False, dtype=dtype)
    hidden = torch.randn(512, 8, dtype=dtype, requires_grad=True)
    target = torch.randint(0, head.out_features, (512,))
    most = 1.1 * TILE * (dtype.itemsize + 4)  # one in each format
    with LiveBytes() as counter:
        total = target_scores(head, head.forward, hidden, target).sum()
        assert counter.peak < most
        counter.reset_peak()
        total.backward()
    assert counter.peak < most + head.weight.nbytes + 4 * hidden.nbytes
