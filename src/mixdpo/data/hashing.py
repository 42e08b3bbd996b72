"""Digests of whole columns: those of `io.digest`, without a call per value."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def row_digests(columns: Sequence[pa.Array], size: int) -> pa.Array:
    """Return, per row, `digest` of its values, the first column's first; texts, shape (N,).

    Args:
        columns: text without nulls, of one length.
        size: bytes of a digest.
    """
    data, ends = _with_lengths(columns)
    digests = (
        hashlib.blake2b(data[start:end], digest_size=size).hexdigest() for start, end in pairwise([0, *ends.tolist()])
    )
    return pa.array(digests, pa.string())


def column_digest(parts: Iterable[pa.Array], size: int = 16) -> str:
    """Return `digest` of all values of a column of text without nulls that comes in parts."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(_with_lengths([part])[0])
    return state.hexdigest()


def _with_lengths(columns: Sequence[pa.Array]) -> tuple[memoryview, np.ndarray]:
    """Return the bytes of all rows, each value behind its length (8 bytes, little-endian), and where each row ends."""
    fields = []
    for column in columns:
        lengths = pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i8")
        prefix = pa.Array.from_buffers(pa.binary(8), len(column), [None, pa.py_buffer(lengths)])
        fields += [prefix.cast(pa.large_binary()), column.cast(pa.large_binary())]
    joined = pc.binary_join_element_wise(*fields, pa.scalar(b"", pa.large_binary()))
    ends = np.cumsum(pc.binary_length(joined).to_numpy(zero_copy_only=False))
    data = memoryview(joined.buffers()[2] or b"")
    return data[: ends[-1] if len(ends) else 0], ends
