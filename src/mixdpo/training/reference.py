"""The frozen reference: its log-probabilities, once for the pairs whose loss reads them, or live in every step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from mixdpo.losses import discount_tail
from mixdpo.models.cached_logprobs import CacheUse, cached_values, forward_pass
from mixdpo.models.engine import completion_scores, to_device, without_wrappers
from mixdpo.models.fingerprint import cache_file, describe_tokens
from mixdpo.training.batch import PairBatch, RowLayout, collate_pairs
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.sampling import PlannedPairs
from mixdpo.training.step import pair_logprobs

logger = logging.getLogger(__name__)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients, and let it go on as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run a peft model as its base model; any other model as it is."""
    inner = without_wrappers(model)
    context = inner.disable_adapter() if hasattr(inner, "disable_adapter") else nullcontext()
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    with evaluating(model), context:
        # Peft freezes adapters that are off, and FSDP2 notes in its first forward pass, which may be this one,
        # in which number format trained weights want their gradients.
        for weight, is_trained in trained:
            weight.requires_grad_(is_trained)
        yield


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
    """Return the log-probabilities of loaded rows (int64, shape (B,)) under a model: a reference's with adapters off.

    To be called within the autocast region of the whole pass: autocast rounds each weight once in a region.

    Returns:
        float32, shape (B, 2): chosen, rejected, in nats.
    """
    batch = to_device(collate_pairs([pairs[int(row)] for row in rows], lay_out), device)
    values = pair_logprobs(model, batch, ld_alpha)
    return torch.stack([values.chosen, values.rejected], dim=1)


def values_of_all(
    model: nn.Module,
    pairs: PlannedPairs,
    *,
    lay_out: RowLayout,
    device: torch.device,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the log-probabilities of both answers of all pairs; float64, shape (N, 2), nats, NaN for lost pairs.

    One pass without dropout, adapters on; the longest pairs first, and processes take batches in turn.
    """
    rows = np.flatnonzero(pairs.index_of_row >= 0)
    rows = rows[np.argsort(-pairs.tokens_per_row()[rows], kind="stable")]
    values = np.full((len(pairs.plan), 2), np.nan)

    def show(done: int) -> None:
        if on_progress is not None:
            on_progress(done, len(rows))

    with evaluating(model):
        values_of = partial(reference_values, model, pairs, lay_out=lay_out, device=device)
        values[rows] = forward_pass(rows, values_of, batch_size, show)
    return values


def live_reference(model: nn.Module, batch: PairBatch, ld_alpha: float | None = None) -> PairBatch:
    """Return `batch` with the reference's log-probabilities of its pairs with two answers, computed now."""
    if "compared_rows" not in batch:
        return batch
    with adapters_off(model):
        scores = completion_scores(model, batch["compared_rows"], shared_length=ld_alpha is not None)
    logprobs_C = scores.logprob
    if ld_alpha is not None and scores.shared_logprob is not None:
        logprobs_C = discount_tail(scores.logprob, scores.shared_logprob, ld_alpha)
    logprobs_C = logprobs_C[: 2 * len(batch["compared_index"])]
    batch = batch.copy()
    for side, logprobs_R in zip(("ref_chosen", "ref_rejected"), logprobs_C.view(-1, 2).unbind(1), strict=True):
        unknown = torch.full_like(batch["weight"], torch.nan)
        batch[side] = unknown.index_copy(0, batch["compared_index"], logprobs_R)  # type: ignore[literal-required]
    if "mismatched" in batch:
        batch["mismatched"] = live_reference(model, batch["mismatched"])
    return batch


def fill_reference(
    pairs: PlannedPairs,
    name: str,
    values_of: Callable[[np.ndarray], Tensor],
    *,
    batch_size: int,
    file: Path | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CacheUse:
    """Fill in `pairs.reference` where a loss reads it, computing only what the cache does not hold.

    Args:
        pairs: the data set.
        name: what the log calls it.
        values_of: `reference_values` given all but rows.
        batch_size: pairs per device.
        file: the cache of this reference, None to do without.
        on_progress: called with (pairs done, pairs to compute).

    Returns:
        Where the values come from; see `cached_values`.
    """
    rows = reference_rows(pairs)
    values, use = cached_values(
        f"reference ({name})",
        pairs.tokens_per_row()[rows],
        lambda index: values_of(rows[index]),
        batch_size=batch_size,
        describe=lambda: describe_tokens(pairs.tokens, pairs.index_of_row[rows]),
        file=file,
        on_progress=on_progress,
    )
    reference = np.full_like(pairs.reference, np.nan)
    reference[rows] = values
    pairs.reference = reference
    return use


def take_reference(pairs: PlannedPairs, known: Iterable[PlannedPairs]) -> bool:
    """Fill in `pairs.reference` from data sets that have the same pairs; whether all values were there."""
    if pairs.mismatched is not None:
        return False
    values: dict[str, np.ndarray] = {}
    for one in known:
        named = zip(one.tokens["pair_id"][:], one.reference[np.asarray(one.tokens["row"][:])], strict=True)
        values |= {pair_id: value for pair_id, value in named if np.isfinite(value).all()}
    ids, rows = pairs.tokens["pair_id"][:], np.asarray(pairs.tokens["row"][:])
    if not all(pair_id in values for pair_id in ids):
        return False
    pairs.reference[rows] = [values[pair_id] for pair_id in ids]
    return True


def reference_file(model: nn.Module, args: MixDPOConfig, accelerator: Accelerator) -> Path | None:
    """Return where the log-probabilities of a reference are kept; None without a cache and on other processes.

    Args:
        model: the reference, with its weights as they are in the reference pass, not yet sharded.
        args: `reference_cache`, `tf32` and `ld_alpha` are read.
        accelerator: knows the number format of the forward pass.
    """
    if not (args.reference_cache and accelerator.is_main_process):
        return None
    form = accelerator.mixed_precision + (" tf32" if args.tf32 else "")
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        form += f" {accelerator.distributed_type.value}"  # no autocast: hidden states are in the format of the weights
    if args.ld_alpha is not None:
        form += f" ld_alpha {args.ld_alpha}"  # the values are discounted sums
    file = cache_file("reference", model, form)
    if file is None:
        logger.info("the reference's weights are spread over processes: its values are not kept in the cache")
    return file
