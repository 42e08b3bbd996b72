"""Tiny models, tokenizers and pairs for tests, made in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 64
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = [
    "The quick brown fox jumps over the lazy dog. Sure, here is an answer to your question!",
    "How do I make tea? Boil water, add the leaves, wait three minutes, and enjoy. 1 2 3 4 5 6 7 8 9 0",
    "system user assistant tool You are a helpful assistant. Tell me about cats and dogs today.",
]


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


def saved(model, tokenizer, folder: Path) -> str:
    """Save both and return the folder's name."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_reward_model(tokenizer, folder: Path, pad: int | None, labels: int = 1) -> str:
    """Save a two-layer reward model with the given padding token and return its folder's name."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.2, num_labels=labels, pad_token_id=pad,
    )  # fmt: skip
    return saved(AutoModelForSequenceClassification.from_config(config), tokenizer, folder)


def byte_level_tokenizer(vocab_size: int = 400, chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A real byte-level BPE tokenizer with ChatML's special tokens, trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    fast.chat_template = chat_template
    return fast


def token_pairs(n: int, seed: int = 0, vocab_size: int = VOCABULARY, masked: bool = False) -> Dataset:
    """Tokenised pairs as `tokens_of` makes them, with random ids and lengths; masked: about half of them untrained."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[list[int]]:
        return [rng.integers(3, vocab_size, size=rng.integers(low, high)).tolist() for _ in range(n)]

    sides = {"prompt_ids": ids(2, 9), "chosen_ids": ids(1, 12), "rejected_ids": ids(1, 12)}

    def mask(length: int) -> list[bool]:
        trained = rng.integers(2, size=length).astype(bool) if masked else np.ones(length, dtype=bool)
        trained[rng.integers(length) if masked else 0] = True
        return trained.tolist()

    masks = {f"{side}_mask": [mask(len(ids)) for ids in sides[f"{side}_ids"]] for side in ("chosen", "rejected")}
    return Dataset.from_dict({"row": list(range(n)), "pair_id": [f"{i:020x}" for i in range(n)], **sides, **masks})


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
