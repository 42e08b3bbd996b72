"""Columns of the input that no pair is made of, beside the pairs, so that `score` and `clean` can write them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value, concatenate_datasets

from mixdpo.data.row_places import RowPlaces
from mixdpo.data.sources import RawSource, quiet_datasets

_RENAMED: Final = "{}_of_input"
_FILE_BITS: Final = 40
"""A file has fewer rows than 2 to this power."""


def kept_names(unread: Sequence[str], left_out: Sequence[str], own: Sequence[str]) -> dict[str, str]:
    """Return the columns to keep and what they are called beside the pairs.

    Args:
        unread: columns of the input that nothing was read from.
        left_out: columns that hold scores or margins which the pairs lack, since another source has none.
        own: the columns of the pairs, whose names are taken.
    """
    names = {name: _RENAMED.format(name) if name in own else name for name in unread}
    return {**names, **{name: _RENAMED.format(name) for name in left_out}}


def with_columns(pairs: Dataset, raw: RawSource, names: dict[str, str]) -> Dataset:
    """Return the pairs of a source with columns of the row that each was made of, under the names given."""
    if not names:
        return pairs
    kept = raw.dataset.select_columns(list(names)).select(_rows_of(pairs, raw.places)).rename_columns(names)
    own_ids = names.get("pair_id")
    if own_ids is not None and kept[own_ids][:] == pairs["pair_id"][:]:
        kept = kept.remove_columns(own_ids)  # we wrote the file
    with quiet_datasets():
        return concatenate_datasets([pairs, kept], axis=1) if kept.column_names else pairs


def in_one_type(parts: Sequence[Dataset]) -> list[Dataset]:
    """Return the pairs of several sources with columns that have the same type in all: JSON text where they differ."""
    kinds: dict[str, list[Any]] = {}
    for part in parts:
        for name, kind in part.features.items():
            if kind != Value("null") and kind not in kinds.setdefault(name, []):
                kinds[name].append(kind)
    mixed = [name for name, found in kinds.items() if len(found) > 1]
    return [_as_text(part, [name for name in mixed if name in part.column_names]) for part in parts]


def _as_text(part: Dataset, names: Sequence[str]) -> Dataset:
    for name in names:
        texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in part[name]]
        part = part.remove_columns(name).add_column(name, texts, feature=Value("string"))
    return part


def _rows_of(pairs: Dataset, places: RowPlaces) -> np.ndarray:
    """Return the index in its source of the row of each pair, int64."""
    number = pairs.select_columns(["source_row"]).with_format("arrow")[:]["source_row"].to_numpy()
    file = np.zeros(len(number), dtype=np.int64)
    if len(places.files) > 1:
        files = pairs.select_columns(["source_file"]).with_format("arrow")[:]["source_file"]
        file = pc.index_in(files, pa.array(places.files)).to_numpy().astype(np.int64)
    keys = (places.file.astype(np.int64) << _FILE_BITS) + places.number
    order = np.argsort(keys, kind="stable")
    return order[np.searchsorted(keys, (file << _FILE_BITS) + number, sorter=order)]
