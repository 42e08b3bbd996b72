"""Reading pairs of plain text column by column; rows with anything odd about them go to the reader of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from mixdpo.common.text_limits import LONGEST_TEXT
from mixdpo.data.columns import is_quality
from mixdpo.data.hashing import row_digests
from mixdpo.data.pairs import PAIR_ID_SIZE, PairReader
from mixdpo.data.reasoning import ONLY_REASONING
from mixdpo.data.training_columns import TIE, largest
from mixdpo.data.turns import ANNOUNCED

_SIDES: Final = ("prompt", "chosen", "rejected")
_SCORES: Final = ("score_chosen", "score_rejected", "margin")
_END: Final = 80
"""Characters at the end of a prompt that may announce an answer."""
_SAYS_SOMETHING: Final = r"[^\s\x1c-\x1f]"
"""What `str.strip` leaves: Python takes four separators for white space that Unicode does not."""


def read_text_table(table: pa.Table, rows: Sequence[int], *, reader: PairReader) -> pa.Table:
    """Return the usable pairs of a table, as `reader.read_batch` does; `holds_plain_texts` must be true of it.

    Raises:
        RowFault: as `reader.read_batch`.
    """
    numbers = _numbers(reader)
    gap = _gap(numbers)
    sides = {side: str(getattr(reader.columns, side)) for side in _SIDES}
    plain = [pl.col(name).str.contains(_SAYS_SOMETHING) for name in sides.values()]
    # What is longer in bytes may be so in characters.
    plain += [pl.col(name).str.len_bytes() <= LONGEST_TEXT for name in sides.values()]
    plain.append(pl.col(sides["chosen"]) != pl.col(sides["rejected"]))
    for side in (sides["chosen"], sides["rejected"]):
        plain.append(~pl.col(side).str.contains(ONLY_REASONING))
        plain.append(~pl.col(side).str.strip_chars().str.starts_with(pl.col(sides["prompt"]).str.strip_chars()))
    plain += [number.is_finite() for name, number in numbers.items() if name in _SCORES]
    training = _how_to_train(reader)
    plain += [_holds(name, number) for name, number in training.items()]
    numbers |= training
    if reader.contradictions != "keep":
        plain.append(gap >= 0)
    end = pl.col(sides["prompt"]).str.tail(_END) + "\n\n"
    announced = pl.DataFrame(table).select(end.str.contains(ANNOUNCED).fill_null(False)).to_series()
    if announced.any():  # an answer may hold a further turn then
        plain.append(~pl.lit(announced))
    found = pl.DataFrame(table).select(plain=pl.all_horizontal(plain).fill_null(False), gap=gap, **numbers)
    is_plain_row, found = found["plain"], found.filter("plain")
    reader.tally.ties += int((found["gap"] == 0).sum())
    reader.tally.contradicted += int((found["gap"] < 0).sum())

    mask = is_plain_row.to_arrow()
    texts = {side: table[name].combine_chunks().cast(pa.string()).filter(mask) for side, name in sides.items()}
    no_tools = pa.array([""] * len(found), pa.string())
    pairs = {"pair_id": row_digests([*texts.values(), no_tools], PAIR_ID_SIZE), **texts}
    pairs |= {name: found[name].to_arrow() for name in numbers}
    places = reader.places.taken(np.asarray(rows)[is_plain_row.to_numpy()])
    pairs["source_row"] = pa.array(places.number)
    if "source_file" in reader.features:
        pairs["source_file"] = pa.array(places.files).take(pa.array(places.file))
    names = list(reader.features)
    result = pa.table([pairs[name] for name in names], names=names).cast(reader.features.arrow_schema)
    return _with_odd(result, is_plain_row.arg_true().to_numpy(), table, rows, reader)


def says_something(column: pa.ChunkedArray) -> bool:
    """Whether a column holds more than nulls, empty lists, numbers and texts of one word."""
    values = pl.Series(column)
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return False
    if values.dtype == pl.String:
        return values.str.contains(r"\S\s+\S").any()
    return (values.list.len() > 0 if values.dtype == pl.List else values.is_not_null()).any()


def _numbers(reader: PairReader) -> dict[str, pl.Expr]:
    """Return scores and qualities (null for what is no number) and margins (NaN where missing), as pairs have them."""
    columns = {name: getattr(reader.columns, name) for name in _SCORES}
    scores = {name: pl.col(column).cast(pl.Float64, strict=False) for name, column in columns.items() if column}
    margins = {name: pl.col(name).cast(pl.Float64).fill_null(np.nan) for name in reader.columns.margins}
    there = reader.columns.qualities  # another source may have more
    qualities = {
        name: pl.col(name).cast(pl.Float64).fill_nan(None) if name in there else pl.lit(None, pl.Float64)
        for name in reader.features
        if is_quality(name)
    }
    return {name: number for name, number in {**scores, **margins, **qualities}.items() if name in reader.features}


def _how_to_train(reader: PairReader) -> dict[str, pl.Expr]:
    """Return weights, label probabilities and ties as numbers, null for what is none, such as the text "true"."""
    columns = dict(reader.columns.of_training())
    return {
        name: pl.col(column).cast(pl.Float64, strict=False)
        for name, column in columns.items()
        if name in reader.features
    }


def _holds(name: str, number: pl.Expr) -> pl.Expr:
    """Whether a column that says how to train can hold a number."""
    if name == TIE:
        return number.is_in([0.0, 1.0])
    return (number >= 0) & (number <= largest(name))  # not NaN, which polars takes for the largest number


def _gap(numbers: Mapping[str, pl.Expr]) -> pl.Expr:
    if "score_chosen" in numbers:
        return numbers["score_chosen"] - numbers["score_rejected"]
    return numbers.get("margin", pl.lit(1.0))


def _with_odd(
    result: pa.Table, plain: np.ndarray, table: pa.Table, rows: Sequence[int], reader: PairReader
) -> pa.Table:
    """Add to `result`, the pairs of the rows `plain`, what the reader makes of the other rows, in order."""
    odd = np.setdiff1d(np.arange(len(table)), plain)
    kept, pairs = [], []
    for at, values in zip(odd.tolist(), table.take(odd).to_pylist(), strict=True):
        pair = reader.read(values, rows[at])
        if pair is not None:
            kept.append(at)
            pairs.append({name: pair.get(name) for name in reader.features})
    if not pairs:
        return result
    both = pa.concat_tables([result, pa.Table.from_pylist(pairs, schema=result.schema)])
    return both.take(np.argsort(np.concatenate([plain, kept]), kind="stable"))
