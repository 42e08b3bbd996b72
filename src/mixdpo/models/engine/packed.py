"""Summed log-probabilities of completions, all in one packed row that holds every prompt once.

Nothing is padded and no prompt is computed twice: a completion's tokens attend to their prompt and to
themselves (`attention.py`), position ids go on from the prompt's end, and only the hidden states that predict a
trained token reach the language-model head (`lm_head.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixdpo.common.errors import RunError
from mixdpo.models.engine.lm_head import target_scores
from mixdpo.models.engine.routers import router_arguments
from mixdpo.models.engine.rows import (
    CompletionScores,
    Group,
    PackedLayout,
    PackedRows,
    PromptGroup,
    shared_lengths,
)
from mixdpo.models.engine.score_norms import head_gradient_norms
from mixdpo.models.engine.wrappers import without_wrappers

HeadForward = Callable[[Tensor], Tensor]


def pack_rows(groups: Sequence[PromptGroup]) -> PackedRows:
    """Lay out prompt groups one after the other: prompt, first completion, second completion, ..."""
    ids: list[int] = []
    positions: list[np.ndarray] = []
    multiplicity: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    placed: list[Group] = []
    scored: list[list[int]] = []
    for group in groups:
        start, prompt = len(ids), len(group.prompt)
        ids += group.prompt
        positions.append(np.arange(prompt))
        multiplicity.append(np.full(prompt, len(group.completions), dtype=np.float32))
        places_of = group.scored_places()
        scored.append(list(map(len, places_of)))
        for completion, places in zip(group.completions, places_of, strict=True):
            targets.append(len(ids) + places)
            sources.append(np.where(places > 0, targets[-1] - 1, start + prompt - 1))
            ids += completion
            positions.append(np.arange(prompt, prompt + len(completion)))
            multiplicity.append(np.ones(len(completion), dtype=np.float32))
        placed.append(Group(start, prompt, tuple(len(completion) for completion in group.completions)))
    row = np.array(ids, dtype=np.int64)  # many times faster than a tensor of them
    return PackedRows(
        input_ids=torch.from_numpy(row[None]),
        position_ids=torch.from_numpy(np.concatenate(positions)[None]),
        multiplicity=torch.from_numpy(np.concatenate(multiplicity)[None, None, None]),
        source=torch.from_numpy(np.concatenate(sources)),
        target=torch.from_numpy(row[np.concatenate(targets)]),
        layout=PackedLayout(tuple(placed), tuple(map(len, targets)), tuple(shared_lengths(scored))),
    )


def packed_scores(
    model: nn.Module,
    rows: PackedRows,
    alignment: bool = False,
    shared_length: bool = False,
    router_loss: bool = False,
    score_norms: bool = False,
) -> CompletionScores:
    """Return the scores of every completion. Differentiable unless grad mode is off.

    Args:
        model: a causal language model that `prepare_packing` accepted, possibly wrapped by DDP, FSDP or peft.
        rows: from `pack_rows`, on the model's device.
        alignment: whether to compute `CompletionScores.alignment`, one more exponential per logit.
        shared_length: whether to compute `CompletionScores.shared_logprob`.
        router_loss: whether to compute `CompletionScores.router_loss`.
        score_norms: whether to compute `CompletionScores.score_norm`, the head's logits once more.

    Raises:
        RunError: what wraps the model casts its outputs, which would round the log-probabilities.
    """
    layout = rows["layout"]
    norms: list[Tensor] = []

    def score(lm_head: nn.Module, plain: HeadForward, hidden: Tensor) -> Tensor:
        hidden_NE = hidden[0, rows["source"]]
        scores = target_scores(lm_head, plain, hidden_NE, rows["target"], alignment)
        if score_norms:  # after the scores, for autocast keeps the first cast of a weight, with or without a gradient
            norms.append(head_gradient_norms(plain, hidden_NE, rows["target"], layout.scored))
        return torch.stack([scores])  # not a view of them, which FSDP2 could not hook safely

    with replaced_lm_head(model, score):
        outputs = packed_forward(model, rows, router_loss)
    scores_N1 = outputs.logits[0]
    if scores_N1.dtype != torch.float32:
        dtype = str(scores_N1.dtype).removeprefix("torch.")
        raise RunError(f"the model's wrapper rounds log-probabilities to {dtype}: let it leave outputs as they are")
    # Summed slice by slice: the order of additions, and so the result, is the same on every run and device.
    parts = scores_N1[:, 0].split(layout.scored)
    return CompletionScores(
        logprob=torch.stack([part.sum() for part in parts]),
        shared_logprob=torch.stack([part[:shared].sum() for part, shared in zip(parts, layout.shared, strict=True)])
        if shared_length
        else None,
        alignment=torch.stack([part.mean() for part in scores_N1[:, 1].detach().split(layout.scored)])
        if alignment
        else None,
        score_norm=norms[0] if score_norms else None,
        router_loss=outputs.get("aux_loss") if router_loss else None,
    )


def packed_forward(model: nn.Module, rows: PackedRows, router_loss: bool = False) -> Any:
    """Return what the model makes of a packed row; its logits are of the head or of what replaces it."""
    return model(
        input_ids=rows["input_ids"],
        position_ids=rows["position_ids"],
        # Transformers passes it on, and what balances the routers weighs tokens by it. Attention does not read it.
        attention_mask=rows["multiplicity"],
        packed_layout=rows["layout"],
        use_cache=False,
        **router_arguments(model, router_loss),
    )


@contextmanager
def replaced_lm_head(model: nn.Module, answer: Callable[[nn.Module, HeadForward, Tensor], Tensor]) -> Iterator[None]:
    """Within the context the model's LM head answers with `answer(lm_head, its own forward, hidden states)`.

    The head still runs inside the model's own forward, where wrappers have gathered its weight.
    """
    lm_head: Any = without_wrappers(model).get_output_embeddings()
    plain = lm_head.forward
    lm_head.forward = lambda hidden: answer(lm_head, plain, hidden)
    try:
        yield
    finally:
        del lm_head.forward
        if lm_head.forward != plain:  # somebody else's replacement stood there
            lm_head.forward = plain
