"""Applying findings: a new data set without the flagged pairs (or with flipped labels), and a log of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.checks import FINDING_TYPES
from mixdpo.auditing.repairs import ADVISED, apply_findings
from mixdpo.auditing.report import read_report
from mixdpo.common.errors import InputError
from mixdpo.common.files import atomic_path
from mixdpo.data.arrays import data_fingerprint, origins
from mixdpo.data.pair_files import beside, save_pairs
from mixdpo.data.pairs import flipped, pair_id
from mixdpo.data.sources import quiet_datasets
from mixdpo.difficulty.metrics import exchanged_margin

CLEANABLE = tuple(name for name, kind in FINDING_TYPES.items() if kind.action is not None)


def findings_to_apply(words: str, report: str | Path) -> list[str]:
    """Return the findings that words separated by commas name; `advised` is all that the report advises.

    Raises:
        InputError: they are `advised` alone, and the report advises nothing.
    """
    names = [name.strip() for name in words.split(",") if name.strip()]
    if ADVISED not in names:
        return names
    findings = findings_of(report)
    advised = [finding["name"] for finding in findings if finding.get("advised")]
    if not advised and set(names) == {ADVISED}:
        others = [finding["name"] for finding in findings if finding["action"] is not None]
        more = f", or name what else it found: --apply {','.join(others)}" if others else ""
        raise InputError("the report advises nothing to clean", file=report, hint=f"use the data as it is{more}")
    return [*advised, *(name for name in names if name not in (ADVISED, *advised))]


def findings_of(report: str | Path) -> list[dict[str, Any]]:
    """Return the findings of a report, as `Finding.to_dict` has them (older versions know no `advised`)."""
    findings: list[dict[str, Any]] = read_report(report)[0]["findings"]
    return findings


def clean(dataset: Dataset, report: str | Path, apply: Sequence[str]) -> tuple[Dataset, pl.DataFrame]:
    """Apply findings of a report to the data it was made from.

    Args:
        dataset: pairs from `load_pairs`, the same as were audited.
        report: folder of the report.
        apply: names of findings, applied in the order of `apply_findings`.

    Returns:
        the pairs that are left, and a log with one row per pair of `dataset`: `pair_id`, `row` (of its file, from 1),
        `file` where there are several, `action` (`kept`, `dropped`, `flipped`), `finding` (the first that decided,
        null for kept ones) and `new_row` (among those that are left, from 1; null for dropped ones).

    Raises:
        InputError: no or an unknown finding, another report, or nothing would be left.
    """
    if not apply:
        raise InputError("no finding is to be applied", hint=f"name some of {', '.join(CLEANABLE)}")
    for name in apply:
        if name not in CLEANABLE:
            raise InputError(f"no finding {name!r} can be applied; there are {', '.join(CLEANABLE)}")
    figures, flagged = read_report(report)
    if figures["fingerprint"] != data_fingerprint(dataset):
        raise InputError(
            "the report was made from other data", file=report, hint="audit this data with `mixdpo audit`"
        )
    flags = {name: _groups(flagged.filter(pl.col("finding") == name), len(dataset)) for name in apply}
    cleaning = apply_findings(flags, apply)
    is_dropped, is_flipped = cleaning.is_dropped, cleaning.is_flipped
    left_rows = np.flatnonzero(~is_dropped)
    if len(left_rows) == 0:
        raise InputError("nothing would be left of the data", hint="apply fewer findings")
    log = pl.DataFrame(origins(dataset)).with_columns(
        action=pl.Series(np.where(is_dropped, "dropped", np.where(is_flipped, "flipped", "kept"))),
        finding=pl.Series(cleaning.finding, dtype=pl.String),
        new_row=pl.Series(np.cumsum(~is_dropped)).set(pl.Series(is_dropped), None),
    )
    with quiet_datasets():
        left = dataset.select(left_rows)
        if is_flipped.any():
            turned = is_flipped[left_rows]
            left = left.map(_flip, with_indices=True, fn_kwargs={"is_flipped": turned}, features=left.features)
    return left, log


def save_cleaned(pairs: Dataset, log: pl.DataFrame, output: str | Path) -> Path:
    """Write pairs as `output`, in the format that its name says, and beside it the log; return the log's path.

    Raises:
        InputError: the file or its log is there, and the log is not this one: it is of other findings or other data
            (perhaps of a file in another format), or there is none.
    """
    output = Path(output)
    log_path = beside(output, ".log.parquet")
    if output.exists() or log_path.exists():
        _check_same_result(output, log_path, log)
    save_pairs(pairs, output)
    with atomic_path(log_path) as temporary:
        log.write_parquet(temporary)
    return log_path


def _check_same_result(output: Path, log_path: Path, log: pl.DataFrame) -> None:
    hint = "name another --output, or delete it"
    try:
        there = pl.read_parquet(log_path)
    except (OSError, pl.exceptions.PolarsError):
        raise InputError(
            f"the file is there, and no {log_path.name} says that `mixdpo clean` wrote it", file=output, hint=hint
        ) from None
    if not there.equals(log):
        applied = there["finding"].drop_nulls().unique(maintain_order=True).to_list() if "finding" in there else []
        raise InputError(
            f"the file holds the result of other findings ({', '.join(applied) or 'none'}) or of other data",
            file=output if output.exists() else log_path,
            hint=f"{hint}; several findings are applied together: --apply advised,NAME",
        )


def _groups(flagged: pl.DataFrame, n: int) -> np.ndarray:
    """Return the group of each of `n` pairs, -1 for those that are not flagged; int64."""
    groups = np.full(n, -1, dtype=np.int64)
    groups[flagged["pair"].to_numpy()] = flagged["group"].to_numpy()
    return groups


def _flip(pair: dict[str, Any], row: int, is_flipped: np.ndarray) -> dict[str, Any]:
    if not is_flipped[row]:
        return pair
    turned = flipped(pair, exchanged_margin)
    return {**turned, "pair_id": pair_id(turned["prompt"], turned["chosen"], turned["rejected"], turned.get("tools"))}
