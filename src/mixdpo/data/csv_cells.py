"""What a spreadsheet does to the cells of a CSV file, undone: spaces before separators, decimal commas."""

from __future__ import annotations

from typing import Final

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from mixdpo.data.csv_form import CsvForm

_DECIMAL_COMMA: Final = r"^\s*[+-]?\d+(,\d+)?([eE][+-]?\d+)?\s*$"
_NO_THOUSANDS: Final = r",(\d{1,2}|\d{4,})(\D|$)"


def mended_cells(dataset: datasets.Dataset, form: CsvForm) -> tuple[datasets.Dataset, list[str]]:
    """Return a table of texts without what its writer added, and the columns whose decimal commas became points."""
    given = dataset.data.table
    table = _without_padding(given, form)
    commas = [name for name in table.column_names if _has_decimal_commas(table[name], form.separator)]
    for name in commas:
        table = _with_column(table, name, pc.replace_substring(table[name], ",", "."))
    if table is given:
        return dataset, commas
    return datasets.Dataset(table, fingerprint=dataset._fingerprint), commas


def _without_padding(table: pa.Table, form: CsvForm) -> pa.Table:
    """Return a table without the spaces before its separators, if they stand before every one of them."""
    names = [name for name in form.columns[:-1] if name in table.column_names] if form.padded else []
    if not all(pc.all(pc.ends_with(table[name], " ")).as_py() for name in names):
        return table
    for name in names:
        table = _with_column(table, name, pc.utf8_rtrim(table[name], " "))
    return table


def _has_decimal_commas(cells: pa.ChunkedArray, separator: str) -> bool:
    """Whether all cells that say anything are numbers, some with a comma that does not part thousands.

    Between commas "1,234" may be either; where another separator is chosen, the comma is taken.
    """
    for some in (cells.slice(0, 1), cells):  # of texts the first cell says it
        said = some.filter(pc.not_equal(pc.utf8_trim_whitespace(some), ""))
        if not pc.all(pc.match_substring_regex(said, _DECIMAL_COMMA), min_count=0).as_py():
            return False
    decimal = "," if separator != "," else _NO_THOUSANDS
    return bool(pc.any(pc.match_substring_regex(cells, decimal), min_count=0).as_py())


def _with_column(table: pa.Table, name: str, cells: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, cells)
