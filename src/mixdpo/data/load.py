"""`load_pairs`: from files or hub ids to validated pairs, with an account of every row."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, Json, List, Value, concatenate_datasets

from mixdpo.data.columns import Columns, find_columns
from mixdpo.data.pairs import DROP_REASONS, Dropped, read_pair, read_score
from mixdpo.data.sources import read_source
from mixdpo.errors import InputError
from mixdpo.io import digest
from mixdpo.settings import build

logger = logging.getLogger(__name__)

_EXAMPLES_PER_REASON = 5


@dataclass(kw_only=True, frozen=True)
class SourceSettings:
    """One source of pairs."""

    path: str = field(metadata={"help": "file, folder, glob or hub id"})
    split: str = field(default="train", metadata={"help": "split of a hub data set or saved DatasetDict"})
    name: str | None = field(default=None, metadata={"help": "configuration of a hub data set"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a hub data set"})
    columns: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "names of the data's columns: {prompt, chosen, rejected, score_chosen, score_rejected, margin, "
            "tools: NAME}; common names are found without it"
        },
    )
    weight: float = field(
        default=1.0,
        metadata={"help": "share of the source's pairs to take: 0.5 a random half, 2 each pair twice"},
    )
    max_pairs: int | None = field(default=None, metadata={"help": "take at most so many pairs, drawn at random"})


@dataclass(kw_only=True, frozen=True)
class DataSettings(SourceSettings):
    """Where the pairs come from and what becomes of doubtful ones."""

    path: str | list[Any] = field(  # type: ignore[assignment]
        metadata={
            "help": "file, folder, glob or hub id; or a list of those, or of mappings with path, weight, max_pairs, "
            "split, name, revision, columns"
        }
    )
    invalid_scores: Literal["error", "drop"] = field(
        default="error", metadata={"help": "rows with a missing, NaN or infinite score: error or drop"}
    )
    contradictions: Literal["keep", "flip", "drop"] = field(
        default="keep", metadata={"help": "pairs whose chosen answer is scored lower: keep, flip or drop"}
    )
    seed: int = field(default=42, metadata={"help": "decides which pairs weight and max_pairs take"})

    def sources(self) -> list[SourceSettings]:
        """Return one `SourceSettings` per path; entries of a list take what they do not say from here."""
        own = {name: getattr(self, name) for name in SourceSettings.__dataclass_fields__}
        if isinstance(self.path, str):
            return [SourceSettings(**own)]
        sources = []
        for i, entry in enumerate(self.path):
            values = {"path": entry} if isinstance(entry, str) else entry
            built = build(SourceSettings, values, f"data.path[{i}]")
            sources.append(
                replace(SourceSettings(**{**own, "path": built.path}), **{key: getattr(built, key) for key in values})
            )
        if not sources:
            raise InputError("data.path is an empty list")
        return sources


@dataclass
class LoadReport:
    """What was read, kept and dropped; kept + dropped = read, times the weights.

    Attributes:
        read: rows read per source.
        kept: pairs in the result.
        dropped: number of rows per reason (a key of `DROP_REASONS`).
        examples: the first row numbers per reason, as `source:row`.
        repeated: extra copies made by weights above 1.
        contradicted: pairs whose chosen answer is scored lower, before the setting was applied.
        contradictions: what was done with them.
        ties: kept pairs with equal scores; None without scores.
        score_columns: the columns that the scores came from, per source; None without.
    """

    read: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    contradicted: int = 0
    contradictions: str = "keep"
    ties: int | None = None
    score_columns: dict[str, list[str] | None] = field(default_factory=dict)

    def drop(self, reason: str, source: str, rows: Sequence[int]) -> None:
        """Count dropped rows (numbered from 1)."""
        if len(rows):
            self.dropped[reason] = self.dropped.get(reason, 0) + len(rows)
            examples = self.examples.setdefault(reason, [])
            examples += [f"{source}:{row}" for row in rows[: _EXAMPLES_PER_REASON - len(examples)]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the account in words, one fact per line."""
        lines = [f"{sum(self.read.values()):,} rows read from {len(self.read)} source(s), {self.kept:,} pairs kept"]
        for reason, count in self.dropped.items():
            where = ", ".join(self.examples[reason])
            lines.append(f"dropped {count:,}: {DROP_REASONS[reason]} (rows {where}{', ...' if count > 5 else ''})")
        if self.repeated:
            lines.append(f"{self.repeated:,} pairs are repetitions by weight")
        if self.contradicted:
            done = {"keep": "kept as they are", "flip": "flipped", "drop": "dropped"}[self.contradictions]
            lines.append(
                f"{self.contradicted:,} pairs have a chosen answer scored lower than the rejected one: {done}"
            )
        if self.ties is not None:
            lines.append(f"{self.ties:,} pairs ({self.ties / max(self.kept, 1):.1%}) have equal scores")
        return lines


def load_pairs(path: str | list[Any], **settings: Any) -> Dataset:
    """Load preference pairs in one form, whatever form they have.

    Args:
        path: file, folder, glob or hub id, or a list of them (`DataSettings.path`).
        **settings: other fields of `DataSettings`, such as ``split="train_prefs"``.

    Returns:
        A data set with the columns `pair_id` (hash of the content), `prompt`, `chosen`, `rejected` (all texts, or
        all lists of messages, the completions without the prompt), and where the data has them `tools` (JSON
        text), `score_chosen`, `score_rejected`, `margin` and `margin/*` (float64), `source`. What was dropped is
        logged; `load_pairs_with_report` returns it.

    Raises:
        InputError: names file, row and column, and what to do.
    """
    pairs, report = load_pairs_with_report(build(DataSettings, {"path": path, **settings}, "data"))
    for i, line in enumerate(report.lines()):
        logger.log(logging.WARNING if i and (report.dropped or report.contradicted) else logging.INFO, line)
    return pairs


def load_pairs_with_report(settings: DataSettings) -> tuple[Dataset, LoadReport]:
    """Load pairs as `load_pairs` does and return the account of every row beside them."""
    report = LoadReport(contradictions=settings.contradictions)
    sources = settings.sources()
    parts = [_load_source(source, i, settings, report) for i, source in enumerate(sources)]
    if len(parts) > 1:
        parts = [p.add_column("source", [s.path] * len(p)) for p, s in zip(parts, sources, strict=True)]
        if len({frozenset(part.column_names) for part in parts}) > 1:
            raise InputError(
                "the sources have different columns: "
                + "; ".join(f"{s.path}: {', '.join(p.column_names)}" for s, p in zip(sources, parts, strict=True)),
                mend="map or leave out columns so that all sources have, or lack, scores",
            )
        if len({_is_chat(part) for part in parts}) > 1:
            raise InputError("some sources hold texts and others message lists", mend="bring them to one format")
    pairs = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    report.kept = len(pairs)
    if "score_chosen" in pairs.column_names:
        report.ties = int((float_column(pairs, "score_chosen") == float_column(pairs, "score_rejected")).sum())
    return pairs, report


def data_fingerprint(dataset: Dataset) -> str:
    """Return a hash of the pair ids in their order: equal for the same pairs in the same order."""
    if "pair_id" not in dataset.column_names:
        raise InputError("the data set has no column pair_id", mend="load it with mixdpo.load_pairs")
    return digest(dataset["pair_id"][:])


def float_column(dataset: Dataset, name: str) -> np.ndarray:
    """Return a numeric column as float64, shape (N,). (The library's own numpy format would round to float32.)"""
    table = dataset.select_columns([name]).with_format("arrow")[:]
    return table[name].to_numpy().astype(np.float64)


def _load_source(source: SourceSettings, index: int, settings: DataSettings, report: LoadReport) -> Dataset:
    raw = read_source(source.path, split=source.split, name=source.name, revision=source.revision)
    columns = find_columns(raw.column_names, source.columns, source.path)
    report.read[source.path] = report.read.get(source.path, 0) + len(raw)
    scores = [columns.score_chosen, columns.score_rejected] if columns.score_chosen else None
    report.score_columns[source.path] = (
        scores if columns.score_chosen else [columns.margin] if columns.margin else None
    )  # type: ignore[assignment]

    pairs = _normalise(raw, columns, source.path, settings)
    reasons = np.asarray(pairs["_reason"][:])
    contradicted = np.asarray(pairs["_contradicted"][:])
    report.contradicted += int(contradicted.sum())
    for reason in DROP_REASONS:
        report.drop(reason, source.path, (np.flatnonzero(reasons == reason) + 1).tolist())
    keep = np.flatnonzero(reasons == "")
    if not len(keep):
        what = "; ".join(f"{count:,} {DROP_REASONS[reason]}" for reason, count in report.dropped.items())
        raise InputError(f"all {len(raw):,} rows were dropped: {what}", file=source.path)
    chosen = _take(keep, source, np.random.default_rng([settings.seed, index]))
    report.drop("over_cap", source.path, (np.setdiff1d(keep, chosen) + 1).tolist())
    report.repeated += len(chosen) - len(np.unique(chosen))
    pairs = pairs.remove_columns(["_reason", "_contradicted"])
    return pairs if len(chosen) == len(pairs) and (chosen == np.arange(len(pairs))).all() else pairs.select(chosen)


def _take(rows: np.ndarray, source: SourceSettings, rng: np.random.Generator) -> np.ndarray:
    """Return the rows that weight and cap leave, in the order of the file."""
    if source.weight <= 0 or (source.max_pairs is not None and source.max_pairs <= 0):
        raise InputError("weight and max_pairs must be above 0", file=source.path)
    whole, part = divmod(source.weight, 1)
    extra = rng.permutation(rows)[: round(part * len(rows))]
    taken = np.concatenate([np.tile(rows, int(whole)), extra])
    if source.max_pairs is not None and len(taken) > source.max_pairs:
        taken = rng.permutation(taken)[: source.max_pairs]
    return np.sort(taken)


def _normalise(raw: Dataset, columns: Columns, file: str, settings: DataSettings) -> Dataset:
    """Map raw rows to the one form, with `_reason` ('' for a pair) and `_contradicted` beside it."""
    is_chat = isinstance(raw[0][columns.chosen], list)
    message = _message_feature(raw, columns) if is_chat else Value("string")
    margins = [name for name in raw.column_names if name.startswith("margin/")]
    features = Features(
        {
            "pair_id": Value("string"),
            "prompt": message,
            "chosen": message,
            "rejected": message,
            **({"tools": Value("string")} if columns.tools else {}),
            **({"score_chosen": Value("float64"), "score_rejected": Value("float64")} if columns.score_chosen else {}),
            **({"margin": Value("float64")} if columns.margin else {}),
            **{name: Value("float64") for name in margins},
            "_reason": Value("string"),
            "_contradicted": Value("bool"),
        }
    )

    def convert(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        names = list(batch)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        converted = [
            _convert_row(r, columns, margins, file, i + 1, is_chat, settings)
            for r, i in zip(rows, indices, strict=True)
        ]
        return {name: [row[name] for row in converted] for name in features}

    return raw.map(
        convert,
        batched=True,
        with_indices=True,
        remove_columns=raw.column_names,
        features=features,
        load_from_cache_file=False,  # reading again is fast, and a stale row would be a wrong result
        new_fingerprint=digest([raw._fingerprint, repr(columns), repr(settings)]),
        desc="validate pairs",
    )


def _convert_row(
    row: Mapping[str, Any],
    columns: Columns,
    margins: Sequence[str],
    file: str,
    number: int,
    is_chat: bool,
    settings: DataSettings,
) -> dict[str, Any]:
    empty: Any = [] if is_chat else ""
    result: dict[str, Any] = {"pair_id": "", "prompt": empty, "chosen": empty, "rejected": empty, "tools": None}
    result |= {"score_chosen": None, "score_rejected": None, "margin": None, "_reason": "", "_contradicted": False}
    result |= dict.fromkeys(margins)
    drop_invalid = settings.invalid_scores == "drop"
    try:
        pair = read_pair(row, columns, file, number)
        if isinstance(pair.chosen, list) != is_chat:
            raise InputError(
                "texts and message lists are mixed in one column", file=file, row=number, column=columns.chosen
            )
        chosen, rejected = pair.chosen, pair.rejected
        for role in ("score_chosen", "score_rejected", "margin"):
            name = getattr(columns, role)
            if name is not None:
                result[role] = read_score(row[name], name, file, number, drop_invalid)
        for name in margins:
            result[name] = read_score(row[name], name, file, number, drop_invalid)
        if columns.score_chosen and result["score_chosen"] < result["score_rejected"]:
            result["_contradicted"] = True
            if settings.contradictions == "drop":
                raise Dropped("contradicted")
            if settings.contradictions == "flip":
                chosen, rejected = rejected, chosen
                result["score_chosen"], result["score_rejected"] = result["score_rejected"], result["score_chosen"]
                pair = replace(pair, chosen=chosen, rejected=rejected)
    except Dropped as dropped:
        return {**result, "_reason": str(dropped)}
    return {
        **result,
        "pair_id": pair.pair_id,
        "prompt": pair.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "tools": pair.tools,
    }


def _message_feature(raw: Dataset, columns: Columns) -> Any:
    """Return the feature of a message list: role and content, or JSON where messages hold more."""
    for name in (columns.prompt, columns.chosen, columns.rejected):
        feature = raw.features[name] if name is not None else None
        keys = set(getattr(getattr(feature, "feature", None), "keys", dict)())
        if not isinstance(feature, Value) and not keys <= {"role", "content"}:
            return Json()
    return List({"role": Value("string"), "content": Value("string")})


def _is_chat(pairs: Dataset) -> bool:
    return not isinstance(pairs.features["chosen"], Value)
