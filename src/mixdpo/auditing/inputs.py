"""Loading pairs to look at: nothing stops at a missing score, and margins can come from another file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
from datasets import Dataset

from mixdpo.auditing.texts import stored_column
from mixdpo.common.errors import InputError
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load_report import LoadReport
from mixdpo.difficulty.scored_pairs import load_pairs_with_report


def load_for_audit(settings: DataSettings) -> tuple[Dataset, LoadReport]:
    """Load pairs as `load_pairs_with_report` does, but count pairs with invalid scores instead of stopping there."""
    return load_pairs_with_report(replace(settings, invalid_scores="drop"))


def with_scores(dataset: Dataset, path: str | Path) -> Dataset:
    """Return `dataset` with the columns `margin/<metric>` of a parquet file, joined by `pair_id`.

    Pairs that the file lacks get NaN.

    Raises:
        InputError: the file cannot be read, lacks those columns, or has none of the pairs.
    """
    try:
        table = pl.read_parquet(path)
        metrics = [column for column in table.columns if column.startswith("margin/")]
        table = table.with_columns(pl.col(metrics).cast(pl.Float64), pl.col("^pair_id$").cast(pl.String))
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"not a readable parquet file of scores ({error})", file=path) from error
    if "pair_id" not in table.columns or not metrics:
        raise InputError(
            f"scores need the columns pair_id and margin/NAME (there are {', '.join(table.columns)})", file=path
        )
    ids = pl.DataFrame(stored_column(dataset, "pair_id"))
    known = table.select("pair_id", *metrics).unique("pair_id", keep="first", maintain_order=True)
    if ids["pair_id"].is_in(known["pair_id"].implode()).sum() == 0:
        raise InputError("the file has scores of none of the pairs", file=path, hint="score the same data")
    joined = ids.join(known, on="pair_id", how="left", maintain_order="left")
    for column in metrics:
        if column in dataset.column_names:
            dataset = dataset.remove_columns(column)
        dataset = dataset.add_column(column, joined[column].fill_null(float("nan")).to_numpy())
    return dataset
