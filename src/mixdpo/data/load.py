"""Loading pairs: sources are opened, their rows read and validated, weighted and joined, and all is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Value, concatenate_datasets

from mixdpo.common.cache import hold
from mixdpo.common.disk import cache_explained
from mixdpo.common.errors import InputError
from mixdpo.common.files import data_cache, digest
from mixdpo.data.column_names import mapping_hint
from mixdpo.data.columns import (
    PairColumns,
    find_columns,
    half_scores,
    holds_plain_texts,
    is_media,
    is_text,
    nested_kind,
    prompt_part,
    read_columns,
    unread_columns,
)
from mixdpo.data.data_settings import DataSettings, SourceSettings
from mixdpo.data.kept_columns import in_one_type, kept_names, with_columns
from mixdpo.data.layouts import LISTS, Layout, find_layout, view_layout
from mixdpo.data.load_report import SHOWN_ROWS, LoadReport, SourceReport
from mixdpo.data.messages import CALL_ROLES, with_role
from mixdpo.data.pairs import (
    ExchangedMargin,
    PairReader,
    RowFault,
    Tally,
    is_conversational,
    pair_features,
    repeats_prompt,
    unknown_margin,
)
from mixdpo.data.prompts import REASONS, DropPair
from mixdpo.data.sources import RawSource, check_reads_no_hub, open_source, quiet_datasets, source_in_memory
from mixdpo.data.unread_prompt import check_prompt_is_read, prompts_unread
from mixdpo.data.views import View, ViewFault, chained, view_nested, view_text_as_data, view_text_as_messages

_TABLE: Final = 5_000
"""Pairs of plain text that are read together."""
_FIRST_ROWS: Final = 1_000
"""Rows that show how a source keeps its pairs, where the types of its columns do not."""
_SCANNED: Final = 1 << 14
"""Rows of a column that are looked at together."""


def read_pairs(
    settings: DataSettings,
    dataset: Dataset | DatasetDict | None = None,
    *,
    exchanged: ExchangedMargin = unknown_margin,
    keep_columns: bool = False,
) -> tuple[Dataset, LoadReport]:
    """Read the pairs that settings name, validated and in one form, and say what became of every row.

    Args:
        settings: the sources, and what is done with doubtful rows.
        dataset: rows in memory, to be read instead of `path`, which then names them.
        exchanged: what flipping a pair that contradicts its label makes of its `margin/<metric>` columns.
        keep_columns: whether the pairs get the columns of the input, too, that they are not made of.

    Returns:
        One row per pair: `pair_id` (20 hexadecimal digits of its content), `prompt`, `chosen`, `rejected` (all text,
        or all lists of messages), and where the data has them `tools` (JSON text or null), `score_chosen`,
        `score_rejected`, `margin`, `margin/<metric>`, `quality/<policy>/chosen` and its like, `weight/<name>` and
        `label_probability` (float64), `tie` (bool);
        `source_row` (int64), the row of the file, from 1, with `source_file` if there are several files and `source`
        if there are several sources. And the report.

    Raises:
        InputError: a source cannot be read, lacks a column, has a row of the wrong type or an invalid score, or
            nothing is left of it.
    """
    if dataset is None:
        sources = [_open(source, settings) for source in settings.sources()]
        return _joined_sources(sources, settings, exchanged, keep_columns)
    (one,) = settings.sources()
    check_reads_no_hub(str(one.path), settings.name, settings.revision)
    source = _interpreted(one, source_in_memory(dataset, str(one.path), settings.split), settings)
    return _joined_sources([source], settings, exchanged, keep_columns)


def _joined_sources(
    sources: list[_Source], settings: DataSettings, exchanged: ExchangedMargin, keep_columns: bool
) -> tuple[Dataset, LoadReport]:
    formats = {source.conversational for source in sources}
    if len(formats) > 1:
        texts, chats = ([s.raw.name for s in sources if s.conversational is kind] for kind in (False, True))
        raise InputError(
            f"pairs of text cannot be joined with pairs of messages ({', '.join(chats)})",
            file=texts[0],
            hint="convert one of them, or load them apart",
        )
    conversational = formats.pop()
    calls = conversational and any(_holds_calls(source) for source in sources)
    files = {file for source in sources for file in source.raw.places.files}
    kinds = [(source.features, source.columns) for source in sources]
    features = pair_features(kinds, conversational, calls, files=len(files) > 1)
    parts, reports = [], []
    for number, source in enumerate(sources):
        part, tally = _read(source, features, settings, exchanged)
        kept = _kept_names(source, features, len(sources) > 1) if keep_columns else {}
        part = with_columns(part, source.raw, kept)
        used = weighted_rows(len(part), source.settings.weight, source.settings.max_pairs, [settings.seed, number])
        parts.append(_taken(part, used))
        reports.append(_report(source, part, tally, features, settings, len(used), kept))
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
    layout: Layout | None
    view: View | None
    columns: PairColumns
    conversational: bool
    repeats_prompt: bool

    @property
    def features(self) -> Features:
        """The columns of its rows as they are read."""
        return self.raw.dataset.features if self.view is None else self.view.features


def _open(settings: SourceSettings, data: DataSettings) -> _Source:
    raw = open_source(settings.path, split=settings.split or "train", name=settings.name, revision=settings.revision)
    return _interpreted(settings, raw, data)


def _interpreted(settings: SourceSettings, raw: RawSource, data: DataSettings) -> _Source:
    """Decide how the rows of a source are read: by its columns, and by its first rows where those are open."""
    features, mapping = raw.dataset.features, settings.columns or {}
    view, layout = None, None
    if not {"chosen", "rejected"} & set(mapping):
        lists = [name for name in LISTS if is_text(features.get(name))]
        if lists and not {"chosen", "rejected"} <= set(features):
            view = view_text_as_data(features, lists, _first_rows(raw, None))
            features = features if view is None else view.features
        layout = find_layout(features)
    if layout is not None:
        if layout.refusal is not None:
            raise InputError(layout.refusal, file=settings.path)
        mapping = {
            **{key: name for key, name in layout.columns.items() if nested_kind(features, name) is not None},
            **mapping,
        }
        view = chained(view, view_layout(layout, features, data))
        features = features if view is None else view.features
    view = chained(view, view_nested(features, mapping.values()))
    features = view.features if view is not None else features
    columns = find_columns(features, mapping, settings.path)

    first = _first_rows(raw, view)
    sides = [name for name in (columns.prompt, columns.chosen, columns.rejected) if name is not None]
    parsed = view_text_as_messages(features, sides, first)
    if parsed is not None:
        view, features, first = chained(view, parsed), parsed.features, _first_rows(raw, chained(view, parsed))
        columns = find_columns(features, mapping, settings.path)
    conversational = is_conversational(features, first[0] if first else {}, columns)
    if not conversational:  # texts have no template
        columns = replace(columns, chat_template_kwargs=None)
        check_prompt_is_read(features, columns, first, settings.path)
    return _Source(
        settings=settings,
        raw=raw,
        layout=layout,
        view=view,
        columns=columns,
        conversational=conversational,
        repeats_prompt=not conversational and columns.prompt is not None and repeats_prompt(first, columns),
    )


def _first_rows(raw: RawSource, view: View | None) -> list[Mapping[str, Any]]:
    """Return the first rows as they are read; what is wrong in them is told when all are read."""
    rows: list[Mapping[str, Any]] = raw.dataset.select(range(min(_FIRST_ROWS, len(raw.dataset)))).to_list()
    if view is None:
        return rows
    made: list[Mapping[str, Any]] = []
    for row in rows:
        with suppress(ViewFault, DropPair):
            made += view.rows(row)
    return made


def _holds_calls(source: _Source) -> bool:
    """Whether a message has the role of a tool call, whose text becomes an object."""
    for name in source.raw.dataset.column_names:
        element = getattr(source.raw.dataset.features[name], "feature", source.raw.dataset.features[name])
        keys = [key for key in ("from", "role") if isinstance(element, dict) and is_text(element.get(key))]
        if not keys:
            continue
        for table in source.raw.dataset.select_columns([name]).with_format("arrow").iter(_SCANNED):
            cells = table[name].combine_chunks()
            messages = cells if pa.types.is_struct(cells.type) else cells.flatten()
            roles = pc.utf8_lower(messages.field(keys[0]).cast(pa.string()))
            if pc.any(pc.is_in(roles, value_set=pa.array(sorted(CALL_ROLES)))).as_py():
                return True
    return False


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
        places=source.raw.places,
        repeats_prompt=source.repeats_prompt,
        view=source.view,
    )
    files = source.raw.places.files if "source_file" in features else ()
    fingerprint = digest([source.raw.key, repr(replace(reader, tally=Tally())), *files])
    raw, read, size = source.raw.dataset, reader.read_batch, 1000
    file = data_cache() / f"pairs-{fingerprint}.arrow"
    if source.view is None and not source.repeats_prompt and holds_plain_texts(raw.features, source.columns):
        from mixdpo.data.text_reader import read_text_table  # reads by polars, which messages do without

        raw, read, size = raw.with_format("arrow"), partial(read_text_table, reader=reader), _TABLE
    try:
        with quiet_datasets(), cache_explained():
            pairs = raw.map(
                read,
                with_indices=True,
                batched=True,
                batch_size=size,
                remove_columns=raw.column_names,
                features=features,
                # Always read anew (the reader counts while it reads), into a file that is replaced as a whole.
                load_from_cache_file=False,
                cache_file_name=str(file),
                new_fingerprint=fingerprint,
            ).with_format(None)
    except RowFault as fault:
        place, row = source.raw.places[fault.row]
        raise InputError(fault.problem, file=place, row=row, column=fault.column, hint=fault.hint) from fault
    hold(file)
    if len(pairs) == 0:
        raise _nothing_left(source, reader.tally)
    return pairs, reader.tally


def _nothing_left(source: _Source, tally: Tally) -> InputError:
    counts = {reason: len(rows) for reason, rows in tally.dropped.items()}
    most = max(counts, key=lambda reason: counts[reason])
    file, row = source.raw.places[tally.dropped[most][0]]
    listed = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    details = ", ".join(tally.details.get(most, {}))
    meaning = f"{REASONS[most]}: {details}" if details else REASONS[most]
    column = source.columns.prompt if most == "empty_prompt" else None if details else source.columns.chosen
    column = column if column in source.raw.dataset.column_names else None
    asked = prompts_unread(source.features, source.columns) if most == "no_shared_prompt" else []
    there = ", ".join(source.raw.dataset.column_names)
    return InputError(
        f"all {sum(counts.values()):,} rows were dropped ({listed}), from here on: {meaning}",
        file=file,
        row=row,
        column=source.columns.scores[0] if most == "invalid_score" else column,
        hint=mapping_hint({"prompt": asked[0]})
        if asked
        else f"check the data, or name the right columns with `columns`, or --data.columns (there are {there})",
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
    return concatenate_datasets(in_one_type(named))


def _kept_names(source: _Source, features: Features, several: bool) -> dict[str, str]:
    """Return the columns of the input that no pair is made of, and what they are called beside the pairs."""
    there, columns = source.raw.dataset.column_names, source.columns
    left_out = [name for key, name in columns.numbers() if key not in features]
    taken = {*read_columns(columns), *(source.view.reads if source.view is not None else ())}
    unread = [name for name in there if name not in taken]
    own = [*features, "source"] if several else list(features)
    return kept_names(unread, [name for name in left_out if name in there], own)


def _report(
    source: _Source,
    part: Dataset,
    tally: Tally,
    features: Features,
    settings: DataSettings,
    used: int,
    kept: Mapping[str, str],
) -> SourceReport:
    rated = "score_chosen" in features or "margin" in features
    return SourceReport(
        source=source.raw.name,
        read=len(source.raw.dataset),
        kept=len(part),
        used=used,
        dropped={reason: len(rows) for reason, rows in tally.dropped.items()},
        dropped_rows=_shown(source, tally.dropped),
        dropped_details={reason: dict(details.most_common(SHOWN_ROWS)) for reason, details in tally.details.items()},
        added=tally.added,
        doubted={doubt: len(rows) for doubt, rows in tally.doubted.items()},
        doubted_rows=_shown(source, tally.doubted),
        notes=(*_notes(source, tally, settings), *_left_out(source, features), *_renamed(part, kept)),
        warnings=tuple(_warnings(source)),
        score_columns=source.columns.scores,
        unread_columns=tuple(_unread(source)),
        ties=tally.ties if rated else None,
        contradicted=tally.contradicted if rated else None,
        contradictions=settings.contradictions,
    )


def _shown(source: _Source, indices: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    """Return the places of the first rows of each kind."""
    return {kind: [_place(source.raw, row) for row in rows[:SHOWN_ROWS]] for kind, rows in indices.items()}


def _place(raw: RawSource, row: int) -> str:
    file, number = raw.places[row]
    return f"{file}:{number}" if len(raw.files) > 1 else str(number)


def _notes(source: _Source, tally: Tally, settings: DataSettings) -> Iterator[str]:
    """Say how a source was read, as far as that was not plain."""
    yield from source.raw.notes
    if source.columns.renamed:
        yield f"read in spite of case, spaces or hyphens: {', '.join(map(repr, source.columns.renamed))}"
    if source.layout is not None:
        yield f"layout: {source.layout.name}"
    if source.layout is not None and source.layout.by_rule:
        beyond = f", {tally.added:,} beyond one a row" if tally.added else ""
        yield f"pairs of scored answers by {settings.pair_rule}{beyond}"
    if source.view is not None and source.view.parses:
        yield f"rows that keep lists or messages as text: {tally.parsed:,}, in {', '.join(source.view.parses)}"
    if tally.repeated:
        yield f"pairs whose answers began with the prompt, which was taken off: {tally.repeated:,}"


def _left_out(source: _Source, features: Features) -> Iterator[str]:
    """Name the columns that say how to train and are no part of the pairs."""
    names = [column for name, column in source.columns.of_training() if name not in features]
    if names:
        yield f"left out, since another source has none: {', '.join(names)}"


def _renamed(part: Dataset, kept: Mapping[str, str]) -> Iterator[str]:
    for name, given in kept.items():
        if given != name and given in part.column_names:
            yield f"column {name!r} is written as {given!r}: pairs have a column of that name, or lack these scores"


def _unread(source: _Source) -> list[str]:
    taken = source.view.reads if source.view is not None else ()
    unread = unread_columns(source.raw.dataset.column_names, source.columns)
    return [name for name in unread if name not in taken]


def _warnings(source: _Source) -> Iterator[str]:
    """Name the columns that are not read and hold a part of the prompt, or what only looks at texts cannot see."""
    for name, other in half_scores(source.raw.dataset.column_names) if not source.columns.scores else ():
        yield f"column {name!r} is not read: there is no {other!r} beside it"
    for name in _unread(source):
        key = prompt_part(name)
        if is_media(name, source.raw.dataset.features[name]):
            yield f"column {name!r} is not read: only text is trained on"
        elif key is not None and _says_something(source.raw.dataset, name) and not _is_in_prompt(source, name):
            yield f"column {name!r} is not read; if it is a part of the prompt, add `{key}: {name}` to `columns`"


def _says_something(dataset: Dataset, name: str) -> bool:
    """Whether a column holds more than nulls, empty lists, numbers and texts of one word, such as a kind or an id."""
    from mixdpo.data.text_reader import says_something

    tables = dataset.select_columns([name]).with_format("arrow").iter(_SCANNED)
    return any(says_something(table[name]) for table in tables)


def _is_in_prompt(source: _Source, name: str) -> bool:
    """Whether the first prompts hold what a column of texts says."""
    if source.columns.prompt is None or not is_text(source.raw.dataset.features[name]):
        return False
    rows = [(row.get(name), row[source.columns.prompt]) for row in _first_rows(source.raw, source.view)]
    return all(said.strip() in str(_words(prompt)) for said, prompt in rows if said)


def _words(prompt: Any) -> str:
    if not isinstance(prompt, list):
        return str(prompt)
    return "\n".join(str(with_role(message).get("content")) for message in prompt if isinstance(message, Mapping))
