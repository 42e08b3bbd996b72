"""Small conversational data sets with scores, made in memory, and the margins of a large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset

from mixdpo import load_pairs, score

_WORDS = ("tea", "cat", "dog", "answer", "question", "boil", "water", "wait", "today", "lazy", "fox", "jump")


# Pairs per margin in UltraFeedback's train_prefs, 61,135 pairs in all.
ULTRAFEEDBACK_MARGINS = {
    0: 7387, 0.5: 11266, 1: 11999, 1.5: 6989, 2: 5707, 2.5: 2890, 3: 3138, 3.5: 1606, 4: 2414,
    4.5: 1579, 5: 1913, 5.5: 1361, 6: 1239, 6.5: 809, 7: 521, 7.5: 173, 8: 132, 8.5: 7,
}  # fmt: skip


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


def agent_rows(n: int, seed: int = 0) -> list[dict]:
    """The rows above with answers of two or three turns of the assistant, between which a tool and the user speak."""
    rng = np.random.default_rng([seed, 1])
    rows = chat_rows(n, seed)

    def message(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(rng.choice(_WORDS, rng.integers(1, 9)))}

    for row in rows:
        for side in ("chosen", "rejected"):
            roles = ("tool", "assistant", "user", "assistant")[: 2 * int(rng.integers(1, 3))]
            row[side] += [message(role) for role in roles]
    return rows


def chat_pairs(tmp_path: Path, n: int = 24, seed: int = 0) -> Dataset:
    """The rows above, through a parquet file and `load_pairs`, with margins."""
    path = tmp_path / f"pairs-{n}-{seed}.parquet"
    Dataset.from_list(chat_rows(n, seed)).to_parquet(path)
    return score(load_pairs(str(path)))
