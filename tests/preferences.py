"""Preference pairs without any fault, and the faults to plant in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from mixdpo import load_pairs

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> <!--'
_SYLLABLES = ("ka", "lo", "mi", "ter", "son", "vel", "dra", "pun", "eth", "ro", "gim", "sal")
WORDS = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def clean_rows(n: int = 400, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of random words: no text resembles another, and neither length nor style knows the label."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        rejected = float(rng.uniform(1, 6))
        rows.append(
            {
                "prompt": sentence(rng, 20),
                "chosen": sentence(rng, int(rng.integers(30, 80))),
                "rejected": sentence(rng, int(rng.integers(30, 80))),
                "score_chosen": rejected + float(rng.uniform(0.1, 3)),
                "score_rejected": rejected,
            }
        )
    return rows


def loaded(folder: Path, rows: list[dict[str, Any]], name: str = "pairs") -> Dataset:
    path = folder / f"{name}.parquet"
    Dataset.from_list(rows).to_parquet(path)
    return load_pairs(str(path))


def one_word_changed(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    words[int(rng.integers(len(words)))] = "changed"
    return " ".join(words)
