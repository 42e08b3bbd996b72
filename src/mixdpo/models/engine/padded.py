"""Summed log-probabilities of completions, by one plain forward pass over padded rows.

For models whose attention cannot be packed, and as what the packed row is measured against.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from mixdpo.models.engine.lm_head import scores_of_logits
from mixdpo.models.engine.routers import router_arguments
from mixdpo.models.engine.rows import CompletionScores, PaddedRows, PromptGroup, shared_lengths
from mixdpo.models.engine.wrappers import causal_model

# Shapes: R rows (one completion each), K logits kept at their ends, V vocabulary, C rows scored together, N tokens.

_LOGITS_AT_ONCE: Final = 2**18
"""Logits of several rows that are scored together, 1 MB; a model that small waits for calls, not for memory."""


def pad_rows(groups: Sequence[PromptGroup], pad_token_id: int) -> PaddedRows:
    """Lay out every completion in a row of its own, behind its prompt, padded on the right."""
    places_of = [group.scored_places() for group in groups]
    rows = [
        (group.prompt, completion, places)
        for group, scored in zip(groups, places_of, strict=True)
        for completion, places in zip(group.completions, scored, strict=True)
    ]
    width = max(len(prompt) + len(completion) for prompt, completion, _ in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
    sources, targets = [], []
    for r, (prompt, completion, places) in enumerate(rows):
        ids = np.array([*prompt, *completion], dtype=np.int64)
        input_ids[r, : len(ids)] = torch.from_numpy(ids)
        attention_mask[r, : len(ids)] = 1
        sources.append(len(prompt) + places - 1)
        targets.append(ids[len(prompt) + places])
    return PaddedRows(
        input_ids=input_ids,
        attention_mask=attention_mask,
        row=torch.from_numpy(np.repeat(np.arange(len(rows)), list(map(len, sources)))),
        source=torch.from_numpy(np.concatenate(sources)),
        target=torch.from_numpy(np.concatenate(targets)),
        scored=list(map(len, sources)),
        prompt_width=min(len(prompt) for prompt, *_ in rows),
        shared=shared_lengths([list(map(len, scored)) for scored in places_of]),
    )


def padded_scores(
    model: nn.Module,
    rows: PaddedRows,
    alignment: bool = False,
    shared_length: bool = False,
    router_loss: bool = False,
) -> CompletionScores:
    """Return the scores of every row's completion. Differentiable unless grad mode is off.

    Args:
        model: a causal language model of transformers, possibly wrapped by DDP, FSDP or peft.
        rows: from `pad_rows`, on the model's device. Nothing predicts a row's first token, so where the prompt is
            empty the completion's first token is not scored.
        alignment: whether to compute `CompletionScores.alignment`.
        shared_length: whether to compute `CompletionScores.shared_logprob`.
        router_loss: whether to compute `CompletionScores.router_loss`.
    """
    # The logits at position t predict the token at t + 1: the completions need those from prompt_width - 1 on.
    width, prompt_width = rows["input_ids"].shape[1], rows["prompt_width"]
    keeps = prompt_width > 1 and _can_keep_last_logits(model)
    outputs = padded_forward(
        model, rows, router_loss, **({"logits_to_keep": width - prompt_width + 1} if keeps else {})
    )
    logits_RKV = outputs.logits
    kept = logits_RKV.shape[1]
    place_N = rows["row"] * kept + rows["source"] - (width - kept)

    # One row after another in float32, over trained tokens alone; small ones together.
    parts, row, token = [], 0, 0
    for logits_CKV in logits_RKV.split(_rows_at_once(rows["scored"], logits_RKV.shape[2])):
        scored = rows["scored"][row : row + len(logits_CKV)]
        tokens = slice(token, token + sum(scored))
        logits_NV = logits_CKV.flatten(0, 1).index_select(0, place_N[tokens] - row * kept)
        parts += scores_of_logits(logits_NV, rows["target"][tokens], alignment).split(scored)
        row, token = row + len(scored), tokens.stop
    return CompletionScores(
        logprob=torch.stack([part[:, 0].sum() for part in parts]),
        shared_logprob=torch.stack(
            [part[:shared, 0].sum() for part, shared in zip(parts, rows["shared"], strict=True)]
        )
        if shared_length
        else None,
        alignment=torch.stack([part[:, 1].detach().mean() for part in parts]) if alignment else None,
        router_loss=outputs.get("aux_loss") if router_loss else None,
    )


def _rows_at_once(scored: Sequence[int], vocabulary: int) -> list[int]:
    """Return how many rows, one after another, are scored together: as many as `_LOGITS_AT_ONCE` allows, or one."""
    counts, left = [0], _LOGITS_AT_ONCE
    for tokens in scored:
        if tokens * vocabulary > left and counts[-1]:
            counts.append(0)
            left = _LOGITS_AT_ONCE
        counts[-1] += 1
        left -= tokens * vocabulary
    return counts


def padded_forward(model: nn.Module, rows: PaddedRows, router_loss: bool = False, **arguments: Any) -> Any:
    """Return what the model makes of padded rows."""
    arguments |= {name: rows[name] for name in ("input_ids", "attention_mask")}
    with _masks_without_questions():
        return model(**arguments, **router_arguments(model, router_loss), use_cache=False)


@contextmanager
def _masks_without_questions() -> Iterator[None]:
    """Within the context transformers asks no device whether anything is padded before it makes a mask for SDPA.

    It would wait there, once or twice a forward pass, to do without a mask where nothing is padded. Rows padded on the
    right need none in any case: a token sees earlier ones, and padding stands behind all that are scored.
    """
    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = _right_padded_mask  # for this instance, so for calls of models
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]


def _right_padded_mask(
    *, kv_length: int, allow_is_causal_skip: bool = True, local_size: int | None = None, **arguments: Any
) -> Tensor | None:
    """Return what transformers' `sdpa_mask` is asked for; None, for plain causality, in windows that hide nothing.

    `allow_is_causal_skip` is false where a model sees something else than earlier tokens.
    """
    if allow_is_causal_skip and (local_size is None or kv_length <= local_size):
        return None
    return sdpa_mask(kv_length=kv_length, allow_is_causal_skip=False, local_size=local_size, **arguments)


def _can_keep_last_logits(model: nn.Module) -> bool:
    # The class is asked, for accelerate wraps the instance's forward.
    return "logits_to_keep" in inspect.signature(type(causal_model(model)).forward).parameters
