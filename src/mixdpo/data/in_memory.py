"""Rows that the caller has in memory, in whatever form, as a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from mixdpo.common.errors import InputError
from mixdpo.data.data_settings import SourceSettings
from mixdpo.data.messages import kind_of

Named: TypeAlias = str | Path | SourceSettings | Mapping[str, Any]
"""Pairs by a path, a glob, a hub id, or the settings of a source."""


class ArrowTable(Protocol):
    """A table of pandas, polars, pyarrow or another library that exports Arrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Columns: TypeAlias = Mapping[str, Sequence[Any]]
Rows: TypeAlias = (
    Dataset
    | DatasetDict
    | ArrowTable
    | Columns
    | Iterable[Mapping[str, Any]]
    | Callable[[], Iterable[Mapping[str, Any]]]
)
"""A data set, a table, a dict of lists, rows as dicts, or a function that yields them."""

IN_MEMORY = "the data set"
"""What rows in memory are called in errors where the caller has no other name for them."""
_SOURCE_KEYS = frozenset(field.name for field in fields(SourceSettings))
_INDEX = "__index_level_"
"""How pyarrow names the index of a pandas table that has no name."""


def rows_in_memory(source: Any, name: str = IN_MEMORY) -> Dataset | DatasetDict | None:
    """Return rows in memory as a data set, None where `source` only names data (a path, a list of sources).

    Args:
        source: what the caller has.
        name: what the caller calls it, for errors.

    Raises:
        InputError: it is neither, or its rows have no common types.
    """
    if isinstance(source, (str, Path, SourceSettings)) or _names_data(source):
        return None
    if isinstance(source, (Dataset, DatasetDict)):
        return source
    if isinstance(source, (IterableDataset, IterableDatasetDict)):
        raise InputError(
            "it is streamed, and a plan needs all pairs at once",
            file=name,
            hint="load it without streaming=True, or give its first rows as a list: list(dataset.take(10000))",
        )
    if hasattr(source, "__arrow_c_stream__"):
        return _of_table(pa.table(source))
    if isinstance(source, Mapping) and all(_is_column(values) for values in source.values()):
        return _of_columns(source, name)
    rows = source() if callable(source) else source
    if isinstance(rows, Iterable) and not isinstance(rows, (bytes, Mapping)):
        return _of_rows(iter(rows), name)
    raise InputError(
        f"pairs cannot be read from {kind_of(source)}",
        file=None if name == IN_MEMORY else name,
        hint="give a path, a hub id, a data set, a table of pandas, polars or pyarrow, or a list of dicts",
    )


def _names_data(source: Any) -> bool:
    if isinstance(source, Mapping):
        return ("path" in source and not {"chosen", "rejected"} & set(source)) or set(source) <= _SOURCE_KEYS
    return isinstance(source, list) and (not source or not isinstance(source[0], Mapping) or _names_data(source[0]))


def _is_column(values: Any) -> bool:
    return hasattr(values, "__len__") and hasattr(values, "__getitem__") and not isinstance(values, (str, Mapping))


def _of_table(table: pa.Table) -> Dataset:
    return Dataset(table.drop_columns([name for name in table.column_names if name.startswith(_INDEX)]))


def _of_columns(columns: Mapping[str, Any], name: str) -> Dataset:
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{column}: {length:,}" for column, length in lengths.items())
        raise InputError(f"its lists differ in length ({listed})", file=name)
    return _of_rows((dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)), name)


def _of_rows(rows: Iterator[Any], name: str) -> Dataset:
    listed: list[Mapping[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(
                f"it is {kind_of(row)}, not an object with prompt, chosen and rejected", file=name, row=number
            )
        listed.append(dict(row))
    if not listed:
        raise InputError("it holds no rows", file=name)
    # The library takes the columns of the first row for those of all.
    columns = list(dict.fromkeys(column for row in listed for column in row))
    try:
        filled = [{column: row.get(column) for column in columns} for row in listed]
        return Dataset.from_list(filled, on_mixed_types="use_json")
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _odd_value(listed, columns, name) or InputError(f"cannot be read ({error})", file=name) from error


def _odd_value(rows: list[Mapping[str, Any]], columns: list[str], name: str) -> InputError | None:
    """Return an error for the first value that is of another kind than those above it in its column."""
    kinds: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        for column in columns:
            kind = kind_of(row.get(column))
            if kind != "null" and kinds.setdefault(column, kind) != kind:
                return InputError(
                    f"the value is {kind}, not {kinds[column]} as in the rows before",
                    file=name,
                    row=number,
                    column=column,
                    hint="fix or delete the row",
                )
    return None
