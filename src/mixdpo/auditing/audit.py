"""The audit: one pass over the texts for their surface, one for near-duplicates, and arithmetic on the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from shlex import quote
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from mixdpo.auditing.audit_settings import AuditSettings
from mixdpo.auditing.duplicates import duplicate_figures
from mixdpo.auditing.examples import choose, show
from mixdpo.auditing.finding_types import ROW_FINDINGS
from mixdpo.auditing.findings import find, small_repairs
from mixdpo.auditing.languages import language_figures
from mixdpo.auditing.leakage import leak_figures, read_prompts
from mixdpo.auditing.length import length_figures
from mixdpo.auditing.margins import margin_figures
from mixdpo.auditing.near_duplicates import near_duplicate_figures, sign
from mixdpo.auditing.noise import noise_figures
from mixdpo.auditing.overview import overview
from mixdpo.auditing.plan_preview import plan_preview
from mixdpo.auditing.report import AuditReport
from mixdpo.auditing.style import style_figures
from mixdpo.auditing.surface import surface_features
from mixdpo.auditing.texts import SIDES, stored_column
from mixdpo.auditing.tokens import token_figures
from mixdpo.common.errors import InputError
from mixdpo.data.arrays import data_fingerprint, float_column
from mixdpo.data.load_report import LoadReport
from mixdpo.difficulty.rating import RatingSettings, rating
from mixdpo.plan.threshold import judges_labels


def audit(
    dataset: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    against: Sequence[str] = (),
    load_report: LoadReport | None = None,
    settings: AuditSettings | None = None,
    name: str = "DATA",
    on_command_line: str | None = None,
    report: str = "report",
) -> AuditReport:
    """Look at preference pairs before training on them.

    Args:
        dataset: pairs from `load_pairs`; every column `margin/<metric>` is looked at, and ratings if it has them.
        tokenizer: for lengths in tokens, cuts and template checks; without one there are none.
        against: evaluation sets (files, folders or hub ids) whose prompts must not be in the data.
        load_report: what was dropped in loading, from `load_pairs_with_report`.
        settings: default `AuditSettings()`.
        name: what the data are called.
        on_command_line: words that name them there, with the options that say how they are read; default: the name.
        report: folder that the report will be saved in, for the commands that it names.

    Raises:
        InputError: the data was not made by `load_pairs`, an evaluation set cannot be read, or a setting names a
            metric that is not there.
    """
    settings = settings or AuditSettings()
    fingerprint = data_fingerprint(dataset)
    evaluations = {path: read_prompts(path) for path in against}
    scores, margins = _scores(dataset), _margins(dataset)
    metric = _metric(margins, settings.metric)
    margin = margins[metric] if metric is not None else None
    sources = stored_column(dataset, "source") if "source" in dataset.column_names else None

    def rng(section: int) -> np.random.Generator:
        # A generator of its own for each section, so that leaving one out changes no other.
        return np.random.default_rng([settings.seed, section])

    features = surface_features(dataset, tokenizer.all_special_tokens if tokenizer is not None else ())
    words = {side: features[f"{side}/words"].to_numpy().astype(np.int64) for side in SIDES}
    duplicates, flags = duplicate_figures(features)
    near = None
    if settings.near_duplicates:
        near, groups = near_duplicate_figures(sign(dataset, features, settings.seed), settings.near_similarity)
        flags |= groups
    leakage, notes = None, {}
    if evaluations:
        leakage, leaked, leaked_texts = leak_figures(dataset, evaluations, settings.leak_ngram, settings.leak_share)
        flags["leaked"] = leaked
        notes = {
            int(row): f"in the evaluation set: {leaked_texts[leaked[row]]}" for row in np.flatnonzero(leaked >= 0)
        }
    opinions = {name: values for name, values in margins.items() if name == "rating" or judges_labels(name, values)}
    noise, doubt, is_suspect = noise_figures(opinions, scores, rng(1))
    tokens, lengths = None, words
    if tokenizer is not None:
        tokens, counted = token_figures(dataset, tokenizer, settings.max_lengths, settings.token_pairs, rng(2))
        longest = counted["prompt"] + np.maximum(counted["chosen"], counted["rejected"])
        flags["too_long"] = _rows(longest > settings.max_length)
        lengths = {side: _in_tokens(words[side], counted[side]) for side in SIDES}
    if "rating" in margins:
        flags |= {"contradicted": _rows(margins["rating"] < 0), "ties": _rows(margins["rating"] == 0)}
        flags["ratings_of_ten"] = _rows(is_suspect)
    if len(opinions) > 1:
        flags["mislabelled"] = _most_contradict(opinions, doubt)
    flags["special"] = _rows(
        features.select(pl.sum_horizontal(f"{s}/special" for s in SIDES) > 0).to_series().to_numpy()
    )
    flags["broken"] = _rows(
        features.select(pl.sum_horizontal(f"{s}/broken" for s in SIDES) > 0).to_series().to_numpy()
    )
    flags["bad_turns"] = _rows(features["bad_turns"].to_numpy() > 0)
    flags = {key: flags[key] for key in ROW_FINDINGS if key in flags}

    figures: dict[str, Any] = {
        "overview": overview(features, sources, language_figures(dataset, rng(6)), load_report),
        "margins": margin_figures(margins, scores, sources, metric, rng(3)),
        "plan": None if margin is None else plan_preview(margin, lengths, settings.pairs_per_step),
        "length": length_figures(features, margin),
        "style": style_figures(features, settings.style_pairs, rng(4)),
        "duplicates": duplicates,
        "near": near,
        "leakage": leakage,
        "noise": noise,
        "tokens": tokens,
    }
    shown = choose(flags, _buckets(margin, len(dataset)), settings.examples, rng(5))
    numbers = {f"margin/{key}": values for key, values in margins.items()}
    if scores is not None:
        numbers |= {"score_chosen": scores[0], "score_rejected": scores[1]}
    command = _clean_command(quote(name) if on_command_line is None else on_command_line, report)
    findings = find(figures, flags, settings.max_length, command)
    return AuditReport(
        name=name,
        fingerprint=fingerprint,
        figures=figures,
        findings=findings,
        small_repairs=small_repairs(findings, command),
        flags=flags,
        pair_ids=stored_column(dataset, "pair_id"),
        examples=show(dataset, shown, numbers, notes),
        settings=asdict(settings),
    )


def _clean_command(words: str, report: str) -> str:
    return f"mixdpo clean {words}" + (f" --report {quote(report)}" if report != "report" else "")


def _scores(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    if not {"score_chosen", "score_rejected"} <= set(dataset.column_names):
        return None
    return float_column(dataset, "score_chosen"), float_column(dataset, "score_rejected")


def _margins(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the margins by metric, with `rating` from the scores where the data has no such column."""
    columns = [name for name in dataset.column_names if name.startswith("margin/")]
    margins = {name.removeprefix("margin/"): float_column(dataset, name) for name in columns}
    rated = {"score_chosen", "score_rejected"} <= set(dataset.column_names) or "margin" in dataset.column_names
    if rated and "rating" not in margins:
        margins["rating"] = rating(dataset, RatingSettings())
    return margins


def _in_tokens(words: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the tokens of every text: as counted, or by the words where it was not (-1); int64 of shape (N,)."""
    counted = tokens >= 0
    per_word = tokens[counted].sum() / max(1, words[counted].sum())
    return np.where(counted, tokens, np.rint(words * per_word).astype(np.int64))


def _metric(margins: Mapping[str, np.ndarray], wanted: str | None) -> str | None:
    if wanted is None:
        return "rating" if "rating" in margins else next(iter(margins), None)
    if wanted not in margins:
        raise InputError(f"there are no margins of the metric {wanted!r} (there are {', '.join(margins) or 'none'})")
    return wanted


def _rows(mask: np.ndarray) -> np.ndarray:
    """Return every flagged pair as a group of its own."""
    return np.where(mask, np.arange(len(mask)), -1)


def _most_contradict(margins: Mapping[str, np.ndarray], doubt: np.ndarray) -> np.ndarray:
    """Flag the pairs that most of their margins contradict; groups are numbered from the most doubtful."""
    stacked = np.stack(list(margins.values()))
    known = np.isfinite(stacked).sum(axis=0)
    flagged = (np.nan_to_num(stacked) < 0).sum(axis=0) * 2 > known
    rank = np.argsort(np.argsort(-doubt, kind="stable"), kind="stable")
    return np.where(flagged, rank, -1)


def _buckets(margin: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """Return the rows of the thirds by margin; all rows as `any` without margins."""
    if margin is None or not np.isfinite(margin).any():
        return {"any": np.arange(n)}
    rows = np.flatnonzero(np.isfinite(margin))
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    return dict(zip(("easy", "middle", "hard"), np.array_split(rows, 3), strict=True))
