"""The benchmarks: one file each, and an entry in `BENCHMARKS`."""

from __future__ import annotations

from typing import Final

from mixdpo.evaluation.benchmark import Benchmark
from mixdpo.evaluation.benchmarks import (
    alpaca_eval,
    arena_hard,
    demands,
    grade,
    mt_bench,
    open_llm,
    pairwise,
    preferences,
)

BENCHMARKS: Final[dict[str, Benchmark]] = {
    "alpaca-eval": alpaca_eval.BENCHMARK,
    "arena-hard": arena_hard.BENCHMARK,
    "mt-bench": mt_bench.BENCHMARK,
    "pairwise": pairwise.BENCHMARK,
    "grade": grade.BENCHMARK,
    "open-llm-v1": open_llm.BENCHMARK,
    "demands": demands.BENCHMARK,
    "preferences": preferences.BENCHMARK,
}
"""By the command of `mixdpo eval`."""


def benchmark_of(stored: str) -> Benchmark | None:
    """Return the benchmark that result files call so, None for one that is not known."""
    return next((one for one in BENCHMARKS.values() if stored in one.stored_as), None)
