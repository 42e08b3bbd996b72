"""Loading pairs that may have margins already.

`data/` reads rows and knows no metric, so what flipping a pair makes of its margins is handed to it from `METRICS`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixdpo.data.data_settings import DataKeywords, DataSettings
from mixdpo.data.in_memory import IN_MEMORY, Named, Rows, rows_in_memory
from mixdpo.data.load import read_pairs
from mixdpo.difficulty.metrics import exchanged_margin

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from typing_extensions import Unpack

    from mixdpo.data.load_report import LoadReport
    from mixdpo.data.pair_dataset import PairDataset

logger = logging.getLogger(__name__)


def load_pairs(source: Named | Sequence[Named] | Rows, **settings: Unpack[DataKeywords]) -> PairDataset:
    """Load preference pairs from files or the hub, validated and in one form; what is dropped is logged.

    Args:
        source: a file, folder, glob or hub id, or a list of such, each also as `SourceSettings` or a mapping of its
            fields; or rows in memory, as any code of yours made them: a data set of the datasets library, a table of
            pandas, polars or pyarrow, a list or generator of dicts, or a dict of lists.
        **settings: the other fields of `DataSettings`: `split`, `columns`, `invalid_scores`, `max_pairs`, ...

    Returns:
        A row for each pair with `pair_id` (20 hexadecimal digits of its content), `prompt`, `chosen`, `rejected` (all
        text, or all lists of messages), and where the data has them `tools` (JSON text or null), `score_chosen`,
        `score_rejected`, `margin`, `margin/<metric>`, `quality/<policy>/chosen` and its like, `weight/<name>` and
        `label_probability` (float64), `tie` (bool);
        `source_row` (int64), the row of the file, from 1, with `source_file` if there are several files and `source`
        if there are several sources.

    Raises:
        InputError: a source cannot be read, lacks a column, has a row of the wrong type or an invalid score, or
            nothing is left of it.
    """
    dataset = rows_in_memory(source)
    if dataset is not None:
        return pairs_in_memory(dataset, IN_MEMORY, **settings)
    given = DataSettings(path=source if isinstance(source, list) else [source], **settings)
    pairs, report = load_pairs_with_report(given)
    report.log(logger)
    return pairs


def pairs_in_memory(dataset: Dataset | DatasetDict, called: str, **settings: Unpack[DataKeywords]) -> PairDataset:
    """Load pairs as `load_pairs` does, of a data set that is called so in errors and warnings."""
    pairs, report = read_pairs(DataSettings(path=called, **settings), dataset, exchanged=exchanged_margin)
    report.log(logger)
    return pairs


def load_pairs_with_report(settings: DataSettings, *, keep_columns: bool = False) -> tuple[PairDataset, LoadReport]:
    """Load pairs as `load_pairs` does, and return what became of every row instead of logging it.

    With `keep_columns` they have the columns of the input, too, that they are not made of.

    Raises:
        InputError: as `load_pairs`.
    """
    return read_pairs(settings, exchanged=exchanged_margin, keep_columns=keep_columns)
