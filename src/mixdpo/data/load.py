"""Loading pairs: sources are opened, their rows read and validated, weighted and joined, and all is counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Final

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from mixdpo.common.errors import InputError
from mixdpo.common.files import data_cache, digest
from mixdpo.data.columns import PairColumns, check_prompt_is_read, find_columns, unread_columns
from mixdpo.data.data_settings import DataSettings, SourceSettings
from mixdpo.data.load_report import SHOWN_ROWS, LoadReport, SourceReport
from mixdpo.data.pairs import (
    ExchangedMargin,
    PairReader,
    RowFault,
    Tally,
    is_conversational,
    pair_features,
    unknown_margin,
)
from mixdpo.data.prompts import REASONS
from mixdpo.data.sources import RawSource, open_source, quiet_datasets, source_in_memory
from mixdpo.data.text_reader import is_plain, read_table

_TABLE: Final = 5_000
"""Pairs of plain text that are read together."""


def read_pairs(
    settings: DataSettings,
    dataset: Dataset | DatasetDict | None = None,
    *,
    exchanged: ExchangedMargin = unknown_margin,
) -> tuple[Dataset, LoadReport]:
    """Read the pairs that settings name, validated and in one form, and say what became of every row.

    Args:
        settings: the sources, and what is done with doubtful rows.
        dataset: rows in memory, to be read instead of `path`.
        exchanged: what flipping a pair that contradicts its label makes of its `margin/<metric>` columns.

    Returns:
        One row per pair: `pair_id` (20 hexadecimal digits of its content), `prompt`, `chosen`, `rejected` (all text,
        or all lists of messages), and where the data has them `tools` (JSON text or null), `score_chosen`,
        `score_rejected`, `margin`, `margin/<metric>` (float64); `source` (text) if there are several. And the report.

    Raises:
        InputError: a source cannot be read, lacks a column, has a row of the wrong type or an invalid score, or
            nothing is left of it.
    """
    if dataset is None:
        return _joined_sources([_open(source) for source in settings.sources()], settings, exchanged)
    (one,) = settings.sources()
    return _joined_sources([_interpreted(one, source_in_memory(dataset, settings.split))], settings, exchanged)


def _joined_sources(
    sources: list[_Source], settings: DataSettings, exchanged: ExchangedMargin
) -> tuple[Dataset, LoadReport]:
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
        part, tally = _read(source, features, settings, exchanged)
        used = weighted_rows(len(part), source.settings.weight, source.settings.max_pairs, [settings.seed, number])
        parts.append(_taken(part, used))
        reports.append(_report(source, part, tally, features, settings, len(used)))
    with quiet_datasets():
        pairs = _joined(parts, sources)
    capped = weighted_rows(len(pairs), 1.0, settings.max_pairs, [settings.seed, len(sources)])
    pairs = _taken(pairs, capped)
    return pairs, LoadReport(sources=reports, pairs=len(pairs))


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


def _read(
    source: _Source, features: Features, settings: DataSettings, exchanged: ExchangedMargin
) -> tuple[Dataset, Tally]:
    reader = PairReader(
        columns=source.columns,
        conversational=source.conversational,
        features=features,
        invalid_scores=settings.invalid_scores,
        contradictions=settings.contradictions,
        exchanged=exchanged,
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
