"""A forward pass over the pairs of a data set that computes only what is not on disk yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor

from mixdpo.models.pair_cache import add_to_cache, look_up

logger = logging.getLogger(__name__)

# What a killed pass loses at most. Each part rewrites the file.
_SECONDS_PER_PART: Final = 60.0
_LEAST_PAIRS_PER_PART: Final = 256


@dataclass(frozen=True)
class CacheUse:
    """How many pairs of a pass were found in the cache and computed; `file` is None without a cache."""

    found: int
    computed: int
    file: Path | None


def cached_values(
    name: str,
    lengths: np.ndarray,
    values_of: Callable[[np.ndarray], Tensor],
    *,
    batch_size: int,
    describe: Callable[[], pa.Table],
    file: Path | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, CacheUse]:
    """Return a value of each side of N pairs, computing only what the cache does not hold.

    Longest pairs first: batches of similar length waste little padding, and too large a batch size fails at once
    instead of at the end. All processes call this, take batches in turn, and get the whole table. What is computed
    is added to the cache about once a minute, so a pass that was killed goes on where it stopped.

    Args:
        name: what the log calls the pass.
        lengths: tokens of each pair, int, shape (N,).
        values_of: the pass itself: from places in `lengths` (int64, shape (B,)) to a tensor of shape (B, 2).
        batch_size: B on each process.
        describe: gives the table of `describe_tokens` for the N pairs; asked only if there is a cache.
        file: the cache, None to do without; only that of the main process is used.
        on_progress: called with (pairs done, pairs to compute).

    Returns:
        float64, shape (N, 2): chosen, rejected; and where the values come from. A cache that cannot be written is
        warned of, and is None there.
    """
    values = np.full((len(lengths), 2), np.nan)
    if file is not None:
        described = describe()
        values = look_up(file, described["pair"])
    values = _from_main(torch.from_numpy(values)).numpy()
    lacking = np.flatnonzero(np.isnan(values).any(axis=1))
    lacking = lacking[np.argsort(-lengths[lacking], kind="stable")]
    use = CacheUse(found=len(lengths) - len(lacking), computed=len(lacking), file=file)
    if file is not None:
        logger.info("%s: %d pairs from the cache, %d to compute", name, use.found, use.computed)

    done, size = 0, _LEAST_PAIRS_PER_PART
    while done < len(lacking):
        part, begin = lacking[done : done + size], time.perf_counter()

        def show(done_of_part: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + done_of_part, len(lacking))

        values[part] = forward_pass(part, values_of, batch_size, show)
        if use.file is not None:
            kept = np.sort(part)
            columns = dict(zip(("chosen", "rejected"), values[kept].T.copy(), strict=True))
            try:
                add_to_cache(use.file, pa.table({**columns, **_columns(described.take(kept))}))
            except OSError as error:
                logger.warning("%s: values cannot be kept (%s)", use.file, error.strerror or error)
                use = replace(use, file=None)
        done += len(part)
        pairs_per_second = len(part) / (time.perf_counter() - begin)
        wanted = torch.tensor(max(_LEAST_PAIRS_PER_PART, int(pairs_per_second * _SECONDS_PER_PART)))
        size = int(_from_main(wanted))
    return values, use


def forward_pass(
    index: np.ndarray,
    values_of: Callable[[np.ndarray], Tensor],
    batch_size: int,
    on_progress: Callable[[int], None],
) -> np.ndarray:
    """Return the values of the pairs at `index`, float64, shape (len(index), 2), on every process."""
    state = PartialState()
    batches = [slice(start, start + batch_size) for start in range(0, len(index), batch_size)]
    mine: list[tuple[slice, Tensor]] = []
    # Sharded models need every process in every forward, so a process without a batch repeats the last one.
    for first in range(0, len(batches), state.num_processes):
        number = min(first + state.process_index, len(batches) - 1)
        values = values_of(index[batches[number]])
        if number == first + state.process_index:
            mine.append((batches[number], values))
        on_progress(min((first + state.num_processes) * batch_size, len(index)))
    table = torch.zeros((len(index), 2), dtype=torch.float64)
    for batch, values in mine:
        table[batch] = values.cpu().double()
    return _sum_over_processes(table).numpy()


def _from_main(tensor: Tensor) -> Tensor:
    state = PartialState()
    return tensor if state.num_processes == 1 else broadcast(tensor.to(state.device)).cpu()


def _sum_over_processes(tensor: Tensor) -> Tensor:
    state = PartialState()
    return tensor if state.num_processes == 1 else reduce(tensor.to(state.device), reduction="sum").cpu()


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}
