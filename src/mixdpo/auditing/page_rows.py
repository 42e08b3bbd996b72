"""All pairs for the page, so that it can be searched whole: texts cut so far that the page stays small."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.texts import SIDES, text_batches

PAGE_CHARACTERS: Final = 5_000_000
"""Of all texts together; compressed they take about half as many bytes of the page."""
PAGE_PAIRS: Final = 100_000
"""At most, the flagged ones first."""


def page_rows(dataset: Dataset, flags: Mapping[str, np.ndarray], origins: pl.DataFrame) -> dict[str, Any]:
    """Return the pairs as plain values.

    Args:
        dataset: pairs from `load_pairs`.
        flags: by finding, the group of each pair, -1 for none; int64 of shape (N,).
        origins: of each pair `pair_id`, `row`, `file` where there are several.

    Returns:
        `of`: the number of pairs; `pairs`: which of them are there, from 0, None if all are; `cut`: characters of each
        text that are there, None if all are; `rows`: of each pair its row, prompt, chosen and rejected; `flagged`: by
        finding, of each of its pairs that is there the pair, the group and `pair_id`.
    """
    flagged = np.any([group >= 0 for group in flags.values()], axis=0)
    pairs = None
    if len(dataset) > PAGE_PAIRS:
        pairs = np.sort(np.argsort(~flagged, kind="stable")[:PAGE_PAIRS])
    texts = pl.concat(
        [batch.select(pl.col(list(SIDES)).fill_null("")) for batch in text_batches(dataset, "rows", pairs)]
    )
    lengths = texts.select(pl.all().str.len_chars()).to_numpy().ravel()
    cut = longest_that_fits(lengths, PAGE_CHARACTERS)
    there = origins if pairs is None else origins[pairs]
    shown = texts.select(pl.all().str.slice(0, cut)).insert_column(0, row_labels(there))
    is_there = np.ones(len(dataset), dtype=bool)
    if pairs is not None:
        is_there[:] = False
        is_there[pairs] = True
    ids = origins["pair_id"]
    return {
        "of": len(dataset),
        "pairs": None if pairs is None else pairs.tolist(),
        "cut": cut,
        "rows": shown.rows(),
        "flagged": {
            name: [[pair, int(group[pair]), ids[pair]] for pair in np.flatnonzero((group >= 0) & is_there).tolist()]
            for name, group in flags.items()
            if (group >= 0).any()
        },
    }


def row_labels(origins: pl.DataFrame) -> pl.Series:
    """Return what the page calls the row of each pair: its number, with the file where there are several."""
    if "file" not in origins.columns:
        return origins["row"].alias("label")
    return origins.select(pl.concat_str("row", pl.lit(" of "), "file").alias("label")).to_series()


def longest_that_fits(lengths: np.ndarray, most: int) -> int | None:
    """Return to how many characters texts are cut so that together they have `most`; None if all fit uncut."""
    if lengths.sum() <= most:
        return None
    ordered = np.sort(lengths.astype(np.int64))
    before = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    # With the cut at each length: the shorter texts are whole, and the others all have that length.
    total = before + ordered * np.arange(len(ordered), 0, -1)
    at = int(np.searchsorted(total, most, side="right"))
    return int((most - before[at]) // (len(ordered) - at))


def packed(value: Any) -> str:
    """Return a value as JSON, compressed by gzip, in base64."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), mtime=0)).decode("ascii")
