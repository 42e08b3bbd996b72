"""Tiny models and pairs for tests, made in memory."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 64


def tiny_llama(
    seed: int = 0, vocab_size: int = VOCABULARY, scale: float = 0.2, positions: int = 256
) -> LlamaForCausalLM:
    """A two-layer Llama in float32 whose predictions are far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=scale,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def token_pairs(n: int, seed: int = 0, vocab_size: int = VOCABULARY) -> Dataset:
    """Tokenised pairs as `tokenize_pairs` makes them, with random ids and lengths."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[list[int]]:
        return [rng.integers(3, vocab_size, size=rng.integers(low, high)).tolist() for _ in range(n)]

    return Dataset.from_dict(
        {
            "row": list(range(n)),
            "pair_id": [f"{i:020x}" for i in range(n)],
            "prompt_ids": ids(2, 9),
            "chosen_ids": ids(1, 12),
            "rejected_ids": ids(1, 12),
        }
    )


def margin_data(margins: list[float]) -> Dataset:
    """Just enough of a loaded data set for `make_plan`, with the pair ids of `token_pairs`."""
    ids = [f"{i:020x}" for i in range(len(margins))]
    return Dataset.from_dict({"pair_id": ids, "margin/rating": [float(m) for m in margins]})


def plain_logprob(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log pi(completion | prompt) from transformers' own logits of one unpadded sequence; the oracle."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0].float()
    logprobs = torch.log_softmax(logits, dim=-1)
    positions = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return sum(logprobs[p, t] for p, t in zip(positions, completion, strict=True))
