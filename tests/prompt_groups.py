"""Prompts with several completions, and their log-probabilities by the plain forward of each sequence by itself."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn

from mixdpo.models.engine import PromptGroup
from tiny import VOCABULARY, plain_logprob

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def tiny(name: str, **changes) -> nn.Module:
    """A random tiny model of a family, in float32."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(SIZES | changes))
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def groups_of(*shapes: tuple[int, list[int]], seed: int = 0) -> list[PromptGroup]:
    """Random ids of the given (prompt length, completion lengths)."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    return [PromptGroup(ids(prompt), [ids(length) for length in lengths]) for prompt, lengths in shapes]


def expected_logprobs(model: nn.Module, groups: list[PromptGroup]) -> Tensor:
    """Each sequence by itself through the plain forward; nothing predicts a sequence's first token."""
    values = []
    for group in groups:
        for completion in group.completions:
            if group.prompt:
                values.append(plain_logprob(model, group.prompt, completion))
            elif len(completion) > 1:
                values.append(plain_logprob(model, completion[:1], completion[1:]))
            else:
                values.append(torch.zeros(()))
    return torch.stack(values)


def gradients(model: nn.Module, values: Tensor) -> list[Tensor]:
    """Gradients of a sum that weighs every completion differently."""
    model.zero_grad()
    (values * torch.linspace(-1, 2, len(values), device=values.device)).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None]
