"""Norms of the head's gradients against the gradients themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixdpo.models.engine import PromptGroup, completion_scores, pack_rows, prepare_packing, score_norms
from tiny import tiny_llama

GROUPS = [
    PromptGroup([1, 2, 3], [[4, 5, 6, 7, 8], [9, 10]]),
    PromptGroup([11, 12], [[13, 14, 15], [16, 17, 18, 19]], [[True, False, True], [True, True, True, True]]),
]


@pytest.mark.parametrize("block", [1024, 2])
def test_norms_are_those_of_the_heads_gradients(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(score_norms, "_TOKENS_PER_BLOCK", block)
    model = tiny_llama()
    head = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)  # of its own, not the embedding's
    model.set_output_embeddings(head)
    assert prepare_packing(model, False) is None
    scores = completion_scores(model, pack_rows(GROUPS), score_norms=True)
    tokens = torch.tensor([5.0, 2.0, 2.0, 4.0])
    expected = [
        torch.autograd.grad(value, head.weight, retain_graph=True)[0].norm() for value in scores.logprob / tokens
    ]
    torch.testing.assert_close(scores.score_norm, torch.stack(expected), rtol=1e-4, atol=0)
    assert not scores.score_norm.requires_grad
    assert completion_scores(model, pack_rows(GROUPS)).score_norm is None


def test_products_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 32, generator=generator)
    logits = torch.randn(40, 200, generator=generator)
    whole = score_norms.head_gradient_norms(lambda _: logits, hidden, torch.arange(40), [40])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(score_norms.head_gradient_norms(lambda _: logits, hidden, torch.arange(40), [40]), whole)


def test_a_sure_answer_does_not_move_the_head() -> None:
    hidden = torch.eye(4)
    norms = score_norms.head_gradient_norms(lambda rows: 100 * rows, hidden, torch.arange(4), [3, 1])
    assert norms.tolist() == [0.0, 0.0]
    (wrong,) = score_norms.head_gradient_norms(lambda rows: 100 * rows, hidden[:1], torch.tensor([2]), [1])
    assert wrong.item() == pytest.approx(2**0.5)  # the column of the sure token falls, that of the right one rises
