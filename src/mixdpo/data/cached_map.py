"""`Dataset.map` whose result is kept in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from datasets import Dataset

from mixdpo.common.cache import hold
from mixdpo.common.disk import cache_explained
from mixdpo.common.files import data_cache


def cached_map(dataset: Dataset, function: Callable[..., Any], *, kind: str, key: str, **options: Any) -> Dataset:
    """Return `dataset.map(function, **options)` from the cache, or compute and keep it; a broken file is made anew.

    Args:
        dataset: the data set.
        function: as `Dataset.map` takes it.
        kind: the beginning of the file's name.
        key: a digest of all that decides the result, which becomes its fingerprint.
        options: of `Dataset.map`.

    Raises:
        RunError: the cache is full or cannot be written.
    """
    file = data_cache() / f"{kind}-{key}.arrow"

    def read_or_compute(reuse: bool) -> Dataset:
        return dataset.map(
            function, load_from_cache_file=reuse, cache_file_name=str(file), new_fingerprint=key, **options
        )

    hold(file)
    with cache_explained():
        try:
            result = read_or_compute(reuse=True)
            result.data.table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            result = read_or_compute(reuse=False)
    hold(file)
    return result
