"""Applying findings: a new data set without the flagged pairs (or with flipped labels), and a log of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.report import read_report
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.data.arrays import data_fingerprint, origins
from mixdpo.data.pair_files import beside, save_pairs
from mixdpo.data.pairs import flipped, pair_id
from mixdpo.data.sources import quiet_datasets
from mixdpo.difficulty.metrics import exchanged_margin

CLEANABLE = tuple(name for name, kind in FINDING_TYPES.items() if kind.action is not None)


def clean(dataset: Dataset, report: str | Path, apply: Sequence[str]) -> tuple[Dataset, pl.DataFrame]:
    """Apply findings of a report to the data it was made from.

    Args:
        dataset: pairs from `load_pairs`, the same as were audited.
        report: folder of the report.
        apply: names of findings; of several that concern a pair, dropping wins over flipping.

    Returns:
        the pairs that are left, and a log with one row per pair of `dataset`: `pair_id`, `row` (of its file, from 1),
        `file` where there are several, `action` (`kept`, `dropped`, `flipped`), `finding` (the first that decided,
        null for kept ones) and `new_row` (among those that are left, from 1; null for dropped ones).

    Raises:
        InputError: unknown finding, another report, or nothing would be left.
    """
    for name in apply:
        if name not in CLEANABLE:
            raise InputError(f"no finding {name!r} can be applied; there are {', '.join(CLEANABLE)}")
    figures, flagged = read_report(report)
    if figures["fingerprint"] != data_fingerprint(dataset):
        raise InputError(
            "the report was made from other data", file=report, hint="audit this data with `mixdpo audit`"
        )
    n = len(dataset)
    why: list[str | None] = [None] * n
    is_dropped, is_flipped = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    # Flips first, so that the finding which drops a pair is the one in the log.
    for name in sorted(apply, key=lambda name: FINDING_TYPES[name].action != "flip"):
        action = FINDING_TYPES[name].action
        rows = _rows(flagged.filter(pl.col("finding") == name), keep_first=action == "drop_repeats")
        for row in rows[~is_dropped[rows]].tolist():
            why[row] = name
        (is_flipped if action == "flip" else is_dropped)[rows] = True
    is_flipped &= ~is_dropped
    left_rows = np.flatnonzero(~is_dropped)
    if len(left_rows) == 0:
        raise InputError("nothing would be left of the data", hint="apply fewer findings")
    log = pl.DataFrame(origins(dataset)).with_columns(
        action=pl.Series(np.where(is_dropped, "dropped", np.where(is_flipped, "flipped", "kept"))),
        finding=pl.Series(why, dtype=pl.String),
        new_row=pl.Series(np.cumsum(~is_dropped)).set(pl.Series(is_dropped), None),
    )
    with quiet_datasets():
        left = dataset.select(left_rows)
        if is_flipped.any():
            turned = is_flipped[left_rows]
            left = left.map(_flip, with_indices=True, fn_kwargs={"is_flipped": turned}, features=left.features)
    return left, log


def save_cleaned(pairs: Dataset, log: pl.DataFrame, output: str | Path) -> Path:
    """Write pairs as `output`, in the format that its name says, and beside it the log; return the log's path."""
    output = Path(output)
    save_pairs(pairs, output)
    log_path = beside(output, ".log.parquet")
    with atomic_path(log_path) as temporary:
        log.write_parquet(temporary)
    return log_path


def _rows(flagged: pl.DataFrame, keep_first: bool) -> np.ndarray:
    if keep_first:
        flagged = flagged.filter(pl.col("pair") > pl.col("pair").min().over("group"))
    return flagged["pair"].to_numpy()


def _flip(pair: dict[str, Any], row: int, is_flipped: np.ndarray) -> dict[str, Any]:
    if not is_flipped[row]:
        return pair
    turned = flipped(pair, exchanged_margin)
    return {**turned, "pair_id": pair_id(turned["prompt"], turned["chosen"], turned["rejected"], turned.get("tools"))}
