"""A forward pass over the pairs of a data set that computes only what is not on disk yet.

What it gave is kept in one file per model and number format, one row per pair of token sequences. A pair is known by
its token ids and which of them are trained. So another template, tokenizer, limit of length or data set finds the
pairs of which these are the same, and nothing else of a run (losses, learning rate, batches, plan) matters. A row
carries one value of each side and how many trained tokens the sides have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from accelerate.utils import broadcast, reduce
from filelock import FileLock
from torch import Tensor

from mixdpo.common.cache import hold
from mixdpo.common.files import atomic_path, digest
from mixdpo.common.processes import processes

logger = logging.getLogger(__name__)

_SCHEMA: Final = pa.schema(
    {
        "pair": pa.string(),
        "chosen": pa.float64(),
        "rejected": pa.float64(),
        "chosen_tokens": pa.int32(),
        "rejected_tokens": pa.int32(),
    }
)
_VALUES: Final = ("chosen", "rejected")
_DIGEST: Final = b"mixdpo_digest"


def look_up(file: Path, keys: pa.ChunkedArray) -> np.ndarray:
    """Return the values of pairs by their keys, float64, shape (number of keys, 2), NaN where they are not known.

    A file that is not as it was written is reported and counts as empty.
    """
    hold(file)
    try:
        table = _read(file)
    except ValueError as error:
        logger.warning("%s: the cache is damaged (%s); it is made anew", file, error)
        table = _SCHEMA.empty_table()
    index = pc.index_in(keys, value_set=table["pair"])
    found = index.is_valid().to_numpy()
    values = np.full((len(keys), 2), np.nan)
    values[found] = _values(table)[index.drop_null().to_numpy()]
    return values


def add_to_cache(file: Path, rows: pa.Table) -> None:
    """Join rows, which have the columns of `_SCHEMA`, to those of a file; what others wrote meanwhile is kept.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    _, first = np.unique(rows["pair"].to_numpy(), return_index=True)  # data may hold a pair twice
    first = first[np.isfinite(_values(rows)[first]).all(axis=1)]  # an overflow of this run is not for the next
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        try:
            known = _read(file)
        except ValueError:
            known = _SCHEMA.empty_table()  # reported when it was looked up
        new = rows.select(_SCHEMA.names).take(np.sort(first))
        new = new.filter(pc.invert(pc.is_in(new["pair"], value_set=known["pair"])))
        joined = pa.concat_tables([known, new.cast(_SCHEMA)])
        with atomic_path(file) as temporary:
            pq.write_table(joined.replace_schema_metadata({_DIGEST: _table_digest(joined, file)}), temporary)


def _read(file: Path) -> pa.Table:
    """Return the rows of a file, none if it does not exist.

    Raises:
        ValueError: the file is torn, altered, of another model, or cannot be read.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return _SCHEMA.empty_table()
    except OSError as error:
        raise ValueError(error.strerror) from error
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        written = (table.schema.metadata or {}).get(_DIGEST)
        table = table.replace_schema_metadata(None)
        complete = table.schema == _SCHEMA and not any(column.null_count for column in table.columns)
        intact = complete and written == _table_digest(table, file).encode()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ValueError("it is no whole parquet file") from error
    if not intact:
        raise ValueError("its digest does not fit its content")
    if not np.isfinite(_values(table)).all():
        raise ValueError("it holds values that are not finite")
    return table


def _values(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in _VALUES], axis=1)


def _table_digest(table: pa.Table, file: Path) -> str:
    numbers = [table[name].to_numpy().tobytes() for name in _SCHEMA.names[1:]]
    return digest([file.stem, "\n".join(table["pair"].to_pylist()), *numbers])


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
    state = processes()
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
    state = processes()
    return tensor if state.num_processes == 1 else broadcast(tensor.to(state.device)).cpu()


def _sum_over_processes(tensor: Tensor) -> Tensor:
    state = processes()
    return tensor if state.num_processes == 1 else reduce(tensor.to(state.device), reduction="sum").cpu()


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}
