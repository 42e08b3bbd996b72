"""Columns of loaded and of tokenised pairs as arrays, and the fingerprint of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from mixdpo.common.errors import InputError
from mixdpo.data.hashing import column_digest
from mixdpo.data.messages import kind_of

_IDS_AT_ONCE: Final = 1 << 20
_PAIRS_AT_ONCE: Final = 10_000


def float_column(dataset: Dataset, name: str) -> np.ndarray:
    """Return a numeric column as float64, shape (N,). (The library's own numpy format would round to float32.)"""
    table = dataset.select_columns([name]).with_format("arrow")[:]
    return table[name].to_numpy().astype(np.float64)


def token_counts(tokens: Dataset, sides: Sequence[str] = ("chosen", "rejected")) -> np.ndarray:
    """Return the tokens of the named sides, of `prompt`, `chosen` and `rejected`; int64, shape (N, sides).

    Read off the lists' offsets: no token id is looked at.
    """
    columns = [f"{side}_ids" for side in sides]
    table = tokens.select_columns(columns).with_format("arrow")[:]
    return np.stack([pc.list_value_length(table[name]).to_numpy().astype(np.int64) for name in columns], axis=1)


def trained_counts(tokens: Dataset) -> np.ndarray:
    """Return the trained tokens of the chosen and of the rejected completion, none empty; int64, shape (N, 2)."""
    columns = ["chosen_mask", "rejected_mask"]
    table = tokens.select_columns(columns).with_format("arrow")[:]
    return np.stack([np.concatenate([_trues(chunk) for chunk in table[name].chunks]) for name in columns], axis=1)


def _trues(masks: pa.ListArray) -> np.ndarray:
    values = masks.values.to_numpy(zero_copy_only=False)
    offsets = masks.offsets.to_numpy()
    return np.add.reduceat(values[: offsets[-1]], offsets[:-1], dtype=np.int64)


def origins(pairs: Dataset) -> pa.Table:
    """Return which pairs these are: `pair_id`, `row` (of its file, int64, from 1), `file` where there are several.

    In a data set that another tool made, a row is one of the data set.
    """
    check_is_loaded(pairs)
    names = {"pair_id": "pair_id", "source_row": "row", "source_file": "file"}
    there = [name for name in names if name in pairs.column_names]
    table = pairs.select_columns(there).with_format("arrow")[:].rename_columns([names[name] for name in there])
    if "row" not in table.column_names:
        table = table.append_column("row", pa.array(np.arange(1, len(pairs) + 1)))
    return table.replace_schema_metadata(None)


def place_of(pairs: Dataset, index: int) -> dict[str, Any]:
    """Return `row` and, where several files were read, `file` of a pair, as an `InputError` takes them."""
    pair = pairs[index]
    return {"row": pair.get("source_row", index + 1), "file": pair.get("source_file")}


def check_is_loaded(dataset: Any, name: str = "the data set") -> None:
    """Raise `InputError` unless a data set was made by `load_pairs`; `name` is what the caller calls it."""
    if not isinstance(dataset, Dataset) or "pair_id" not in dataset.column_names:
        kind = "a data set without the column pair_id" if isinstance(dataset, Dataset) else kind_of(dataset)
        given = name if name.isidentifier() else "data"
        raise InputError(
            f"it is {kind}, not pairs that mixdpo has read",
            file=name,
            hint=f"give mixdpo.load_pairs({given}), which takes data sets, tables and lists of dicts",
        )


def data_fingerprint(dataset: Dataset) -> str:
    """Return a digest (32 hexadecimal digits) of the pairs' ids in their order.

    Raises:
        InputError: the data set was not made by `load_pairs`.
    """
    check_is_loaded(dataset)
    ids = dataset.select_columns(["pair_id"]).with_format("arrow")
    return column_digest(chunk for batch in ids.iter(batch_size=_IDS_AT_ONCE) for chunk in batch["pair_id"].chunks)


def tokens_digest(tokens: Dataset) -> str:
    """Return a digest (32 hexadecimal digits) of tokenised pairs: rows, token ids and masks."""
    lists = [name for name in tokens.column_names if name.endswith(("_ids", "_mask"))]
    state = hashlib.blake2b(digest_size=16)
    for part in tokens.select_columns(["row", *sorted(lists)]).with_format("arrow").iter(batch_size=_PAIRS_AT_ONCE):
        state.update(part["row"].to_numpy().tobytes())
        for name in sorted(lists):
            values = pc.list_flatten(part[name]).to_numpy(zero_copy_only=False)
            state.update(pc.list_value_length(part[name]).to_numpy().astype("<i8").tobytes())
            state.update(values.astype("<i4").tobytes())
    return state.hexdigest()
