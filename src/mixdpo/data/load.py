"""Loading pairs: sources are opened, their rows read and validated, weighted and joined, and all is counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from mixdpo.common.errors import InputError
from mixdpo.common.files import data_cache, digest
from mixdpo.data.columns import PairColumns, check_prompt_is_read, find_columns, unread_columns
from mixdpo.data.data_settings import DataSettings, SourceSettings
from mixdpo.data.hashing import column_digest
from mixdpo.data.load_report import SHOWN_ROWS, LoadReport, SourceReport
from mixdpo.data.pairs import PairReader, RowFault, Tally, is_conversational, pair_features
from mixdpo.data.prompts import REASONS
from mixdpo.data.sources import RawSource, open_source, quiet_datasets, source_in_memory
from mixdpo.data.text_reader import is_plain, read_table

logger = logging.getLogger(__name__)

_TABLE: Final = 5_000
"""Pairs of plain text that are read together."""
_IDS_AT_ONCE: Final = 1 << 20


def load_pairs(
    source: str | SourceSettings | Mapping[str, Any] | list[Any] | Dataset | DatasetDict, **settings: Any
) -> Dataset:
    """Load preference pairs from files or the hub, validated and in one form; what is dropped is logged.

    Args:
        source: a file, folder, glob or hub id, or a list of such, each also as `SourceSettings` or a mapping of its
            fields; or a data set of the datasets library, as any code of yours made it.
        **settings: the other fields of `DataSettings`: `split`, `columns`, `invalid_scores`, `max_pairs`, ...

    Returns:
        One row per pair: `pair_id` (20 hexadecimal digits of its content), `prompt`, `chosen`, `rejected` (all text,
        or all lists of messages), and where the data has them `tools` (JSON text or null), `score_chosen`,
        `score_rejected`, `margin`, `margin/<metric>` (float64); `source` (text) if there are several.

    Raises:
        InputError: a source cannot be read, lacks a column, has a row of the wrong type or an invalid score, or
            nothing is left of it.
    """
    if isinstance(source, (Dataset, DatasetDict)):
        given = DataSettings(path="the data set", **settings)
        (one,) = given.sources()
        pairs, report = _load([_interpreted(one, source_in_memory(source, given.split))], given)
    else:
        path = source if isinstance(source, (str, list)) else [source]
        pairs, report = load_pairs_with_report(DataSettings(path=path, **settings))
    level = logging.WARNING if report.dropped else logging.INFO
    for line in report.lines():
        logger.log(level, line)
    return pairs


def load_pairs_with_report(settings: DataSettings) -> tuple[Dataset, LoadReport]:
    """Load pairs as `load_pairs` does, and return what became of every row instead of logging it.

    Raises:
        InputError: as `load_pairs`.
    """
    return _load([_open(source) for source in settings.sources()], settings)


def _load(sources: list[_Source], settings: DataSettings) -> tuple[Dataset, LoadReport]:
    formats = {source.conversational for source in sources}
    if len(formats) > 1:
        texts, chats = ([s.raw.name for s in sources if s.conversational is kind] for kind in (False, True))
        raise InputError(
            f"pairs of text cannot be joined with pairs of messages ({', '.join(chats)})",
            file=texts[0],
            hint="convert one of them, or load them apart",
        )
    features = pair_features([(source.raw.dataset.features, source.columns) for source in sources], formats.pop())
    parts, reports = [], []
    for number, source in enumerate(sources):
        part, tally = _read(source, features, settings)
        used = weighted_rows(len(part), source.settings.weight, source.settings.max_pairs, [settings.seed, number])
        parts.append(_taken(part, used))
        reports.append(_report(source, part, tally, features, settings, len(used)))
    with quiet_datasets():
        pairs = _joined(parts, sources)
    capped = weighted_rows(len(pairs), 1.0, settings.max_pairs, [settings.seed, len(sources)])
    pairs = _taken(pairs, capped)
    return pairs, LoadReport(sources=reports, pairs=len(pairs))


def data_fingerprint(dataset: Dataset) -> str:
    """Return a digest (32 hexadecimal digits) of the pairs' ids in their order.

    Raises:
        InputError: the data set was not made by `load_pairs`.
    """
    if "pair_id" not in dataset.column_names:
        raise InputError("the data set has no column pair_id", hint="load it with mixdpo.load_pairs")
    ids = dataset.select_columns(["pair_id"]).with_format("arrow")
    return column_digest(chunk for batch in ids.iter(batch_size=_IDS_AT_ONCE) for chunk in batch["pair_id"].chunks)


def float_column(dataset: Dataset, name: str) -> np.ndarray:
    """Return a numeric column as float64, shape (N,). (The library's own numpy format would round to float32.)"""
    table = dataset.select_columns([name]).with_format("arrow")[:]
    return table[name].to_numpy().astype(np.float64)


def weighted_rows(n: int, weight: float, max_pairs: int | None, seed: list[int]) -> np.ndarray:
    """Return which of `n` rows to use, int64: whole copies of all of them, then a random part, each in file order.

    The expected number of rows is `weight * n`, rounded and at least 1; `max_pairs` then leaves a random subset.
    """
    rng = np.random.default_rng(seed)
    wanted = max(1, round(weight * n))
    part = np.sort(rng.permutation(n)[: wanted % n])
    rows = np.concatenate([np.tile(np.arange(n), wanted // n), part])
    if max_pairs is not None and max_pairs < len(rows):
        rows = rows[np.sort(rng.permutation(len(rows))[:max_pairs])]
    return rows.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class _Source:
    settings: SourceSettings
    raw: RawSource
    columns: PairColumns
    conversational: bool


def _open(settings: SourceSettings) -> _Source:
    raw = open_source(settings.path, split=settings.split or "train", name=settings.name, revision=settings.revision)
    return _interpreted(settings, raw)


def _interpreted(settings: SourceSettings, raw: RawSource) -> _Source:
    columns = find_columns(raw.dataset.features, settings.columns, settings.path)
    conversational = is_conversational(raw.dataset, columns)
    if not conversational:
        check_prompt_is_read(raw.dataset.features, columns, settings.path)
    return _Source(settings=settings, raw=raw, columns=columns, conversational=conversational)


def _read(source: _Source, features: Features, settings: DataSettings) -> tuple[Dataset, Tally]:
    reader = PairReader(
        columns=source.columns,
        conversational=source.conversational,
        features=features,
        invalid_scores=settings.invalid_scores,
        contradictions=settings.contradictions,
    )
    fingerprint = digest([source.raw.key, repr(replace(reader, tally=Tally()))])
    raw, read, size = source.raw.dataset, reader.read_batch, 1000
    if is_plain(raw.features, source.columns):
        raw, read, size = raw.with_format("arrow"), partial(read_table, reader=reader), _TABLE
    try:
        with quiet_datasets():
            pairs = raw.map(
                read,
                with_indices=True,
                batched=True,
                batch_size=size,
                remove_columns=raw.column_names,
                features=features,
                # Always read anew (the reader counts while it reads), into a file that is replaced as a whole.
                load_from_cache_file=False,
                cache_file_name=str(data_cache() / f"pairs-{fingerprint}.arrow"),
                new_fingerprint=fingerprint,
            ).with_format(None)
    except RowFault as fault:
        file, row = source.raw.locate([fault.row])[0]
        raise InputError(fault.problem, file=file, row=row, column=fault.column, hint=fault.hint) from fault
    if len(pairs) == 0:
        raise _nothing_left(source, reader.tally)
    return pairs, reader.tally


def _nothing_left(source: _Source, tally: Tally) -> InputError:
    counts = {reason: len(rows) for reason, rows in tally.dropped.items()}
    most = max(counts, key=lambda reason: counts[reason])
    file, row = source.raw.locate(tally.dropped[most][:1])[0]
    listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    column = source.columns.prompt if most == "empty_prompt" else source.columns.chosen
    there = ", ".join(source.raw.dataset.column_names)
    return InputError(
        f"all {sum(counts.values()):,} rows were dropped ({listed}), from here on: {REASONS[most]}",
        file=file,
        row=row,
        column=source.columns.scores[0] if most == "invalid_score" else column,
        hint=f"check the data, or name the right columns with `columns`, or --data.columns (there are {there})",
    )


def _taken(pairs: Dataset, rows: np.ndarray) -> Dataset:
    return pairs if np.array_equal(rows, np.arange(len(pairs))) else pairs.select(rows)


def _joined(parts: list[Dataset], sources: list[_Source]) -> Dataset:
    if len(parts) == 1:
        return parts[0]
    named = [
        part.add_column("source", [source.raw.name] * len(part), feature=Value("string"))
        for part, source in zip(parts, sources, strict=True)
    ]
    return concatenate_datasets(named)


def _report(
    source: _Source, part: Dataset, tally: Tally, features: Features, settings: DataSettings, used: int
) -> SourceReport:
    shown = {reason: rows[:SHOWN_ROWS] for reason, rows in tally.dropped.items()}
    places = iter(source.raw.locate(chain.from_iterable(shown.values())))
    several = len(source.raw.files) > 1
    rated = "score_chosen" in features or "margin" in features
    return SourceReport(
        source=source.raw.name,
        read=len(source.raw.dataset),
        kept=len(part),
        used=used,
        dropped={reason: len(rows) for reason, rows in tally.dropped.items()},
        dropped_rows={
            reason: [f"{file}:{row}" if several else str(row) for file, row in (next(places) for _ in rows)]
            for reason, rows in shown.items()
        },
        score_columns=source.columns.scores,
        unread_columns=tuple(unread_columns(source.raw.dataset.column_names, source.columns)),
        ties=tally.ties if rated else None,
        contradicted=tally.contradicted if rated else None,
        contradictions=settings.contradictions,
    )
