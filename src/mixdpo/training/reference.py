"""The frozen reference: its log-probabilities, once for the pairs whose loss reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mixdpo.engine import completion_logprobs, to_device, without_wrappers
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
    return np.flatnonzero((pairs.has_preference | pairs.all_sides) & (pairs.tokens_per_row() > 0))


def reference_values(
    model: nn.Module, pairs: PlannedPairs, rows: np.ndarray, *, lay_out: RowLayout, accelerator: Accelerator
) -> Tensor:
    """Return the log-probabilities of loaded rows (int64, shape (B,)) under a reference whose adapters are off.

    Returns:
        float32, shape (B, 2): chosen, rejected, in nats.
    """
    batch = to_device(collate_pairs([pairs[int(row)] for row in rows], lay_out), accelerator.device)
    with accelerator.autocast():
        values = pair_logprobs(model, batch)
    return torch.stack([values.chosen, values.rejected], dim=1)


def live_reference(model: nn.Module, batch: PairBatch) -> PairBatch:
    """Return `batch` with the reference's log-probabilities of its preference pairs, computed now."""
    if "preference_rows" not in batch:
        return batch
    with adapters_off(model):
        logprobs_P2 = completion_logprobs(model, batch["preference_rows"]).view(-1, 2)
    index = batch["preference_index"]
    batch = batch.copy()
    for side, logprobs_P in zip(("ref_chosen", "ref_rejected"), logprobs_P2.unbind(1), strict=True):
        batch[side] = torch.full_like(batch["weight"], torch.nan).index_copy(0, index, logprobs_P)  # type: ignore[literal-required]
    return batch
