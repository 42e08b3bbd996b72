"""The frozen reference: its log-probabilities, once for the pairs whose loss reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from mixdpo.engine import completion_scores, to_device, without_wrappers
from mixdpo.losses import discount_tail
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


def reference_pass(
    model: nn.Module,
    pairs: PlannedPairs,
    rows: np.ndarray,
    *,
    accelerator: Accelerator,
    batch_size: int,
    lay_out: RowLayout,
    ld_alpha: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the reference log-probabilities of the pairs in `rows`, NaN for the others.

    Longest pairs first: batches of similar length waste little padding, and too large a batch size fails at
    once instead of at the end. Processes take batches in turn and all get the whole table.

    Returns:
        float32, shape (number of loaded pairs, 2): chosen, rejected, in nats.
    """
    lengths = pairs.tokens_per_row()
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    table = torch.zeros((len(lengths), 2), dtype=torch.float32, device=accelerator.device)
    processes, mine = accelerator.num_processes, accelerator.process_index
    with adapters_off(model):
        # Sharded models need every process in every forward, so a process without a batch repeats the last one.
        for first in range(0, len(batches), processes):
            chunk = batches[min(first + mine, len(batches) - 1)]
            batch = to_device(collate_pairs([pairs[int(row)] for row in chunk], lay_out), accelerator.device)
            with accelerator.autocast():
                values = pair_logprobs(model, batch, ld_alpha)
            if first + mine < len(batches):
                table[torch.as_tensor(chunk, device=table.device)] = torch.stack([values.chosen, values.rejected], 1)
            if on_progress is not None:
                on_progress(min((first + processes) * batch_size, len(rows)), len(rows))
    result = accelerator.reduce(table, reduction="sum").cpu().numpy()
    result[np.setdiff1d(np.arange(len(result)), rows)] = np.nan
    return result


def live_reference(model: nn.Module, batch: PairBatch, ld_alpha: float | None = None) -> PairBatch:
    """Return `batch` with the reference's log-probabilities of its pairs with two answers, computed now."""
    if "compared_rows" not in batch:
        return batch
    with adapters_off(model):
        scores = completion_scores(model, batch["compared_rows"])
    logprobs_C = scores.logprob if ld_alpha is None else discount_tail(scores.logprob, scores.head, ld_alpha)
    logprobs_C = logprobs_C[: 2 * len(batch["compared_index"])]
    batch = batch.copy()
    for side, logprobs_R in zip(("ref_chosen", "ref_rejected"), logprobs_C.view(-1, 2).unbind(1), strict=True):
        unknown = torch.full_like(batch["weight"], torch.nan)
        batch[side] = unknown.index_copy(0, batch["compared_index"], logprobs_R)  # type: ignore[literal-required]
    if "mismatched" in batch:
        batch["mismatched"] = live_reference(model, batch["mismatched"])
    return batch
