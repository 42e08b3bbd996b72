"""The reference's log-probabilities: from the cache where it has them, and by forward passes for the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from mixdpo.models.cached_logprobs import CacheUse, cached_values
from mixdpo.models.fingerprint import cache_file, describe_tokens
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.reference import reference_rows
from mixdpo.training.sampling import PlannedPairs

logger = logging.getLogger(__name__)


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
