"""Small conversational data sets with scores, made in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset

from mixdpo import load_pairs, score

_WORDS = ("tea", "cat", "dog", "answer", "question", "boil", "water", "wait", "today", "lazy", "fox", "jump")


def chat_rows(n: int, seed: int = 0) -> list[dict]:
    """Rows with different answers of 1 to 8 words and margins from 0 to 5, a few of them ties."""
    rng = np.random.default_rng(seed)

    def message(role: str, low: int, high: int) -> list[dict]:
        return [{"role": role, "content": " ".join(rng.choice(_WORDS, rng.integers(low, high)))}]

    rows = []
    while len(rows) < n:
        rejected = float(rng.integers(1, 6))
        row = {
            "prompt": message("user", 2, 8),
            "chosen": message("assistant", 1, 9),
            "rejected": message("assistant", 1, 9),
            "score_chosen": rejected + float(rng.integers(0, 6)),
            "score_rejected": rejected,
        }
        if row["chosen"] != row["rejected"]:
            rows.append(row)
    return rows


def chat_pairs(tmp_path: Path, n: int = 24, seed: int = 0) -> Dataset:
    """The rows above, through a parquet file and `load_pairs`, with margins."""
    path = tmp_path / f"pairs-{n}-{seed}.parquet"
    Dataset.from_list(chat_rows(n, seed)).to_parquet(path)
    return score(load_pairs(str(path)))
