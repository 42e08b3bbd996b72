"""The model of a world: its tokenizer, a small Llama, and its pretraining on writers of many skills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from mixdpo.study.world.language import BEGIN, END, PAD, SPECIAL, Language

STEPS: Final[Mapping[str, int]] = {"words": 2500, "letters": 1200, "lists": 2500}
"""Updates of pretraining by world; the answers of `letters` are three to four times as long."""
MOST_SKILL: Final = 0.9
"""Writers that a base imitates have skills from 0 to this, evenly."""
_TEMPLATE: Final = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ '<begin> ' + message.content + ' <answer>' }}"
    "{% else %}{{ ' ' + message.content + ' <end>' }}{% endif %}{% endfor %}"
)


def make_tokenizer(language: Language) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a language, one token per word, with a chat template of its special tokens."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(language.vocabulary)}, unk_token=SPECIAL[PAD]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BEGIN],
        eos_token=SPECIAL[END],
        chat_template=_TEMPLATE,
    )


def make_model(language: Language, seed: int) -> LlamaForCausalLM:
    """Return a Llama of about 116,000 weights with random ones."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(language.vocabulary),
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=language.prompt_length + language.answer_length,
            initializer_range=0.05,
            tie_word_embeddings=False,
            bos_token_id=BEGIN,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    )


def answer_logprobs(model: LlamaForCausalLM, prompts: Tensor, answers: Tensor) -> Tensor:
    """Return the log-probability of each token of the answers, 0 behind their ends; float32, shape (N, A), nats."""
    logits = model(input_ids=torch.cat([prompts, answers[:, :-1]], dim=1)).logits[:, prompts.shape[1] - 1 :]
    taken = F.log_softmax(logits.float(), dim=-1).gather(-1, answers[..., None])[..., 0]
    return taken * (answers != PAD)


def pretrain(
    language: Language, seed: int, steps: int, batch: int = 64, learning_rate: float = 3e-3
) -> LlamaForCausalLM:
    """Return a base that imitates writers of all skills up to `MOST_SKILL`; each step has new prompts."""
    model, random = make_model(language, seed), np.random.default_rng([5, seed])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, steps)
    for _ in range(steps):
        prompts = language.prompts(batch, random)
        answers = torch.from_numpy(language.write(prompts, random.random(batch) * MOST_SKILL, random))
        loss = -answer_logprobs(model, torch.from_numpy(prompts), answers).sum() / (answers != PAD).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()
