"""Padded rows against every sequence by itself, and what their masks ask of the device."""

from __future__ import annotations

import pytest
import torch

from mixdpo.models.engine import completion_hidden_sums, completion_logprobs, completion_scores, pad_rows, padded
from prompt_groups import expected_logprobs, gradients, groups_of, tiny
from waits import Waits

WINDOW = {"sliding_window": 5}
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-eager": ("Llama", {"attn_implementation": "eager"}),
    "mistral-window": ("Mistral", WINDOW),
    "gemma2-soft-cap": ("Gemma2", WINDOW),
    "gemma3": ("Gemma3Text", {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt2-learned-positions": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "opt-learned-positions": ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom-position-bias": ("Bloom", {"n_layer": 2, "n_head": 4}),
    "gpt-oss-sinks": ("GptOss", {**WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "llama4-chunks": ("Llama4Text", {"attention_chunk_size": 6, "intermediate_size_mlp": 64, "num_local_experts": 2}),
    "mamba": ("Mamba", {"state_size": 4}),
    "qwen3-next": ("Qwen3Next", {"layer_types": ["linear_attention", "full_attention"]}),
}
# Transformers asks once a forward pass whether layers of linear attention have padding.
ASKS = "qwen3-next"
LENGTHS = groups_of((5, [7, 3]), (1, [1]), (9, [2, 12]))


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_nothing_and_is_not_asked_about(name) -> None:
    family, changes = FAMILIES[name]
    model = tiny(family, **changes)
    rows = pad_rows(LENGTHS, 0)
    with Waits() as waits:
        values = completion_logprobs(model, rows)
    ours = gradients(model, values)
    expected = expected_logprobs(model, LENGTHS)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-5)
    theirs = gradients(model, expected)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a / largest, b / largest, atol=1e-4, rtol=0)
    assert waits.found.total() == (1 if name == ASKS else 0)


@pytest.mark.parametrize("logits", [0, 1000, 2**18])
def test_rows_scored_together_have_the_scores_of_each(monkeypatch, logits: int) -> None:
    model, rows = tiny("Llama"), pad_rows(LENGTHS, 0)
    with torch.no_grad():
        together = completion_scores(model, rows, alignment=True, shared_length=True)
        monkeypatch.setattr(padded, "_LOGITS_AT_ONCE", logits)
        scores = completion_scores(model, rows, alignment=True, shared_length=True)
    for name in ("logprob", "shared_logprob", "alignment"):
        assert torch.equal(getattr(scores, name), getattr(together, name))
    vocabulary = model.config.vocab_size
    counts = padded._rows_at_once(rows["scored"], vocabulary)
    assert sum(counts) == len(rows["scored"])
    assert min(counts) > 0
    assert len(counts) == {0: 5, 2**18: 1}.get(logits, len(counts))


def test_other_calls_of_the_model_keep_their_padding_on_the_left() -> None:
    model = tiny("Llama")
    completion_hidden_sums(model, pad_rows(LENGTHS, 0))
    ids, positions = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 5]]), torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]])
    left = model(input_ids=ids, attention_mask=(ids > 0).long(), position_ids=positions).logits[0, 2:]
    torch.testing.assert_close(left, model(input_ids=ids[:1, 2:]).logits[0])
