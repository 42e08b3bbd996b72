"""The token loop of a batch of answers: transformers' `generate`, which rows leave when they have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput

CACHE: Final = "cache" if hasattr(GenerateDecoderOnlyOutput, "cache") else "past_key_values"
"""What models and `generate` call their cache; the second before transformers 5.24, which needs Python 3.11."""


@dataclass
class Written:
    """A batch of answers.

    Attributes:
        rows: token ids of every answer, with what follows a stop token.
        entropies: of every token of every answer, the entropy of what it was chosen from, nats; empty lists where it
            was not asked for.
        logits: of the first tokens, shape (B, V), where the config asks for them.
    """

    rows: list[list[int]]
    entropies: list[list[float]]
    logits: Tensor | None = None


def write_batch(
    model: PreTrainedModel, ids_BS: Tensor, mask_BS: Tensor, max_new_tokens: int, config: GenerationConfig,
    entropy: bool = False,
) -> Written:  # fmt: skip
    """Write a batch of answers.

    `generate` computes every row until the last has ended, however much answers differ in length. Here rows that have
    ended leave the batch, and their part of the cache with them. A prompt that stands in several rows, one below the
    other, is computed once.

    Args:
        model: a causal language model in evaluation mode.
        ids_BS: prompts, padded on the left, on the model's device.
        mask_BS: their attention mask, 1 where there is a token.
        max_new_tokens: longest answer.
        config: everything else; its `max_new_tokens` is written over.
        entropy: whether to measure `Written.entropies`.
    """
    generate: Callable[..., Any] = cast(Any, model).generate  # only the subclasses for language models have it
    prompt_length, longest = ids_BS.shape[1], ids_BS.shape[1] + max_new_tokens
    stops = torch.tensor(config.eos_token_id or [], dtype=ids_BS.dtype, device=ids_BS.device)
    enough = _EnoughEnded(prompt_length, stops)
    answers = Written(rows=[[]] * len(ids_BS), entropies=[[] for _ in ids_BS])
    cache = _prompts_once(generate, ids_BS, mask_BS, config)
    left = list(range(len(ids_BS)))
    while left:
        config.max_new_tokens = longest - ids_BS.shape[1]
        measured = _Entropies()
        written = generate(
            input_ids=ids_BS,
            attention_mask=mask_BS,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([enough]),
            logits_processor=LogitsProcessorList([measured] if entropy else []),
            **{CACHE: cache},
        )
        for index, row in zip(left, written.sequences[:, prompt_length:].tolist(), strict=True):
            answers.rows[index] = row
        for index, values in zip(left, measured.by_row(), strict=False):  # there are none where none are measured
            answers.entropies[index] += values
        if answers.logits is None and written.logits is not None:
            answers.logits = written.logits[0]
        if written.sequences.shape[1] == longest:
            break
        keep = (~enough.ended(written.sequences)).nonzero().squeeze(1)
        left = [left[k] for k in keep.tolist()]
        ids_BS = written.sequences[keep]
        mask_BS = F.pad(mask_BS, (0, ids_BS.shape[1] - mask_BS.shape[1]), value=1)[keep]
        cache = _rows_of(getattr(written, CACHE), keep)
    return answers


def _prompts_once(generate: Callable[..., Any], ids_BS: Tensor, mask_BS: Tensor, config: GenerationConfig) -> Any:
    """Return the cache of rows some of which have one prompt, which is computed once; None if no two of them have.

    It holds all tokens but the last, for `generate` goes on from a token that is not in its cache.
    """
    both = torch.cat([ids_BS, mask_BS], dim=1)
    _, prompt_of_row, counts = torch.unique_consecutive(both, dim=0, return_inverse=True, return_counts=True)
    if len(counts) == len(ids_BS) or ids_BS.shape[1] == 1:
        return None
    first = counts.cumsum(0) - counts
    config.max_new_tokens = 1  # which is drawn from what follows the last token but one, and not used
    written = generate(input_ids=ids_BS[first, :-1], attention_mask=mask_BS[first, :-1], generation_config=config)
    return _rows_of(getattr(written, CACHE), prompt_of_row)


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """Take rows of a cache of keys and values, of one several times; None, which computes anew, for any other kind."""
    if not isinstance(cache, DynamicCache) or any(cache.is_linear):
        return None
    cache.batch_select_indices(rows)
    return cache


@dataclass
class _Entropies(LogitsProcessor):
    """Measures, in nats, the distribution that each token is chosen from, and changes nothing."""

    steps: list[Tensor] = field(default_factory=list)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logprobs_BV = torch.log_softmax(scores.float(), dim=-1)
        # A token of probability 0 adds nothing; 0 times its log would be NaN.
        self.steps.append(-(logprobs_BV.exp() * logprobs_BV.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1))
        return scores

    def by_row(self) -> list[list[float]]:
        """Return the entropies of each row, token by token."""
        return torch.stack(self.steps, dim=1).tolist() if self.steps else []


class _EnoughEnded(StoppingCriteria):
    """Interrupt `generate` when a quarter of the rows have ended, so that they can leave the batch."""

    def __init__(self, prompt_length: int, stops: Tensor) -> None:
        self.prompt_length = prompt_length
        self.stops = stops

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ended_B = self.ended(input_ids)
        return (4 * ended_B.sum() >= len(ended_B)).expand(len(ended_B))

    def ended(self, ids_BS: Tensor) -> Tensor:
        """Return which rows have a stop token behind the prompt, bool, shape (rows,)."""
        return torch.isin(ids_BS[:, self.prompt_length :], self.stops).any(dim=1)
