"""What an audit looks at: the pairs, with all that is known of them before any check runs.

Loading stops at no missing score, and margins can come from another file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.auditing.texts import SIDES, stored_column
from mixdpo.auditing.token_facts import TokenFacts
from mixdpo.common.errors import InputError
from mixdpo.data.arrays import float_column
from mixdpo.data.data_settings import DataSettings
from mixdpo.data.load_report import LoadReport
from mixdpo.difficulty.rating import RatingSettings, rating
from mixdpo.difficulty.scored_pairs import load_pairs_with_report
from mixdpo.pairs.quality import Quality


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditData:
    """N pairs, and what checks read of them.

    Attributes:
        pairs: from `load_pairs`.
        features: `surface_features` of the pairs.
        margins: by metric, float64 of shape (N,), larger = easier, NaN where missing.
        metric: of the margins that the plan and the buckets are made from, None without margins.
        scores: ratings of chosen and rejected, float64 of shape (N,), if there are any.
        qualities: how good the answers are against policies' own, by name of the policy, if the data says it.
        sources: source of each pair, None if there is only one.
        evaluations: by name of an evaluation set, its prompts.
        tokens: `token_facts` of the pairs, None without a tokenizer.
        load_report: what became of the rows that were read, if known.
        settings: of the audit.
    """

    pairs: Dataset
    features: pl.DataFrame
    margins: Mapping[str, np.ndarray]
    metric: str | None
    scores: tuple[np.ndarray, np.ndarray] | None
    qualities: Mapping[str, Quality]
    sources: pl.Series | None
    evaluations: Mapping[str, Sequence[str]]
    tokens: TokenFacts | None
    load_report: LoadReport | None
    settings: AuditSettings

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def margin(self) -> np.ndarray | None:
        """The margins of `metric`."""
        return None if self.metric is None else self.margins[self.metric]

    def lengths(self) -> dict[str, np.ndarray]:
        """Return the length of every text by side, int64 of shape (N,): in tokens with a tokenizer, else in words."""
        words = {side: self.features[f"{side}/words"].to_numpy().astype(np.int64) for side in SIDES}
        if self.tokens is None:
            return words
        return {side: in_tokens(words[side], self.tokens.counts[side]) for side in SIDES}

    def rng(self, stream: int) -> np.random.Generator:
        """Return a generator of a check's own, by its number, so that leaving a check out changes no other."""
        return np.random.default_rng([self.settings.seed, stream])


def in_tokens(words: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the tokens of every text: as counted, or by the words where it was not (-1); int64 of shape (N,)."""
    counted = tokens >= 0
    per_word = tokens[counted].sum() / max(1, words[counted].sum())
    return np.where(counted, tokens, np.rint(words * per_word).astype(np.int64))


def scores_of(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the ratings of chosen and rejected answers, where the data has both."""
    if not {"score_chosen", "score_rejected"} <= set(dataset.column_names):
        return None
    return float_column(dataset, "score_chosen"), float_column(dataset, "score_rejected")


def margins_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the margins by metric, with `rating` from the scores where the data has no such column."""
    columns = [name for name in dataset.column_names if name.startswith("margin/")]
    margins = {name.removeprefix("margin/"): float_column(dataset, name) for name in columns}
    rated = {"score_chosen", "score_rejected"} <= set(dataset.column_names) or "margin" in dataset.column_names
    if rated and "rating" not in margins:
        margins["rating"] = rating(dataset, RatingSettings())
    return margins


def metric_of(margins: Mapping[str, np.ndarray], wanted: str | None) -> str | None:
    """Return the metric that is wanted, or `rating`, or the first there is.

    Raises:
        InputError: there are no margins of the metric that is wanted.
    """
    if wanted is None:
        return "rating" if "rating" in margins else next(iter(margins), None)
    if wanted not in margins:
        raise InputError(f"there are no margins of the metric {wanted!r} (there are {', '.join(margins) or 'none'})")
    return wanted


def load_for_audit(settings: DataSettings, *, keep_columns: bool = False) -> tuple[Dataset, LoadReport]:
    """Load pairs as `load_pairs_with_report` does, but count pairs with invalid scores instead of stopping there."""
    return load_pairs_with_report(replace(settings, invalid_scores="drop"), keep_columns=keep_columns)


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
