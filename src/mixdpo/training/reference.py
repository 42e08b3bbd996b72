"""The frozen reference: its log-probabilities, once for the pairs whose loss reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from mixdpo.losses import discount_tail
from mixdpo.models.engine import completion_scores, to_device, without_wrappers
from mixdpo.training.batch import PairBatch, RowLayout, collate_pairs
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.step import pair_logprobs


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run a peft model as its base model; any other model as it is."""
    inner = without_wrappers(model)
    context = inner.disable_adapter() if hasattr(inner, "disable_adapter") else nullcontext()
    was_training = model.training
    model.eval()
    try:
        with context, torch.no_grad():
            yield
    finally:
        model.train(was_training)


def reference_rows(pairs: PlannedPairs) -> np.ndarray:
    """Return the rows of the loaded data whose loss reads the reference, in ascending order; int64."""
    return np.flatnonzero(pairs.reads_reference & (pairs.tokens_per_row() > 0))


def reference_values(
    model: nn.Module,
    pairs: PlannedPairs,
    rows: np.ndarray,
    *,
    lay_out: RowLayout,
    device: torch.device,
    ld_alpha: float | None = None,
) -> Tensor:
    """Return the log-probabilities of loaded rows (int64, shape (B,)) under a reference whose adapters are off.

    To be called within the autocast region of the whole pass: autocast rounds each weight once in a region.

    Returns:
        float32, shape (B, 2): chosen, rejected, in nats.
    """
    batch = to_device(collate_pairs([pairs[int(row)] for row in rows], lay_out), device)
    values = pair_logprobs(model, batch, ld_alpha)
    return torch.stack([values.chosen, values.rejected], dim=1)


def live_reference(model: nn.Module, batch: PairBatch, ld_alpha: float | None = None) -> PairBatch:
    """Return `batch` with the reference's log-probabilities of its pairs with two answers, computed now."""
    if "compared_rows" not in batch:
        return batch
    with adapters_off(model):
        scores = completion_scores(model, batch["compared_rows"], head=ld_alpha is not None)
    logprobs_C = scores.logprob
    if ld_alpha is not None and scores.head is not None:
        logprobs_C = discount_tail(scores.logprob, scores.head, ld_alpha)
    logprobs_C = logprobs_C[: 2 * len(batch["compared_index"])]
    batch = batch.copy()
    for side, logprobs_R in zip(("ref_chosen", "ref_rejected"), logprobs_C.view(-1, 2).unbind(1), strict=True):
        unknown = torch.full_like(batch["weight"], torch.nan)
        batch[side] = unknown.index_copy(0, batch["compared_index"], logprobs_R)  # type: ignore[literal-required]
    if "mismatched" in batch:
        batch["mismatched"] = live_reference(model, batch["mismatched"])
    return batch
