"""What is in the data: pairs, prompts, turns, lengths, sources, scripts, languages, and what was dropped."""

from __future__ import annotations

from typing import Any

import polars as pl

from mixdpo.auditing.statistics import length_histograms, summary
from mixdpo.auditing.texts import SIDES
from mixdpo.data.load_report import LoadReport
from mixdpo.data.prompts import REASONS


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
