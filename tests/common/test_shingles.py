"""Word n-grams and the similarity that MinHash estimates from them."""

from __future__ import annotations

import numpy as np
import polars as pl

from mixdpo.common.shingles import minhash, shingles
from preferences import sentence


def jaccard(first: str, second: str, n: int = 3) -> float:
    grams = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (first.split(), second.split())]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_minhash_estimates_the_jaccard_similarity() -> None:
    rng = np.random.default_rng(6)
    firsts, seconds = [], []
    for same in rng.uniform(0, 1, 300):
        first = [sentence(rng, 5) for _ in range(20)]
        firsts.append(" ".join(first))
        seconds.append(" ".join(part if rng.random() < same else sentence(rng, 5) for part in first))
    exact = np.array([jaccard(a, b) for a, b in zip(firsts, seconds, strict=True)])
    signs = [minhash(shingles(pl.Series(texts), 3), 60, np.random.default_rng(0)) for texts in (firsts, seconds)]
    error = (signs[0] == signs[1]).mean(axis=1) - exact
    assert abs(error.mean()) < 3 * 0.065 / np.sqrt(300), "unbiased"
    assert error.std() < 1.2 * np.sqrt((exact * (1 - exact)).mean() / 60)
    of_one = minhash(shingles(pl.Series(firsts[7:8]), 3), 60, np.random.default_rng(0))
    assert (of_one[0] == signs[0][7]).all(), "a text's signature does not depend on the others"
