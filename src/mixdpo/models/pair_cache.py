"""Values of pairs kept on disk: one file per model and number format, one row per pair of token sequences.

A pair is known by its token ids. So another template, tokenizer, limit of length or data set finds the pairs whose ids
are the same, and nothing else of a run (losses, learning rate, batches, plan) matters. A row carries one value of each
side and how many tokens the sides have.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from mixdpo.common.files import atomic_path, digest

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
