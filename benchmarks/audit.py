"""Time and memory of an audit on generated pairs, and of a plan from margins alone.

    python benchmarks/audit.py --pairs 100000 [--plan-pairs 10000000]

Texts are words drawn from a vocabulary of 20,000 by Zipf's law: prompts of 10 to 69 words, answers of 50 to 259, about
2.6 kB a pair; one pair in a hundred repeats the one before with a word added. Each stage is timed in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from mixdpo import AuditSettings, audit, load_pairs, make_plan

PART = 20_000


def write_pairs(path: Path, pairs: int, seed: int = 0) -> None:
    """Write generated pairs as parquet, a part at a time."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(20_000)])
    weights = 1 / np.arange(2, 20_002)
    cumulative = np.cumsum(weights / weights.sum())

    def texts(lengths: np.ndarray) -> list[str]:
        words = vocabulary[np.minimum(np.searchsorted(cumulative, rng.random(lengths.sum())), 19_999)]
        return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]

    writer = None
    for start in range(0, pairs, PART):
        n = min(PART, pairs - start)
        part = {
            "prompt": texts(rng.integers(10, 70, n)),
            "chosen": texts(rng.integers(60, 260, n)),
            "rejected": texts(rng.integers(50, 250, n)),
        }
        for row in range(100, n, 100):
            for side, values in part.items():
                values[row] = values[row - 1] + (" again" if side == "chosen" else "")
        rejected = rng.uniform(1, 10, n)
        table = pa.table({**part, "score_chosen": rejected + rng.exponential(1.0, n), "score_rejected": rejected})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def main() -> None:
    """Measure and print one JSON object; `--skip-near` and a smaller `--pairs` make it short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--plan-pairs", type=int, default=0, help="also time a plan from this many margins")
    parser.add_argument("--skip-near", action="store_true", help="leave near-duplicates out")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, polars {pl.__version__}",
        "pairs": arguments.pairs,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXDPO_CACHE"] = folder
        if arguments.plan_pairs:
            n = arguments.plan_pairs
            ids = (
                pa.array(np.char.mod("%020d", np.arange(n))) if n <= 10**6 else pa.array(f"{i:020d}" for i in range(n))
            )
            margins = Dataset(pa.table({"pair_id": ids, "margin/rating": np.random.default_rng(0).normal(size=n)}))
            result["plan_s"] = timed(lambda: make_plan(margins))[1]
            result["plan_peak_gib"] = peak()
        else:
            path = Path(folder) / "pairs.parquet"
            write_pairs(path, arguments.pairs)
            pairs, result["load_s"] = timed(lambda: load_pairs(str(path)))
            result["load_peak_gib"] = peak()
            result["text_gb"] = sum(path.stat().st_size for path in Path(folder).rglob("pairs-*.arrow")) / 1e9
            statistics = AuditSettings(near_duplicates=False)
            report, result["statistics_s"] = timed(lambda: audit(pairs, settings=statistics))
            result["statistics_peak_gib"] = peak()
            if not arguments.skip_near:
                report, result["with_near_s"] = timed(lambda: audit(pairs))
                result["with_near_peak_gib"] = peak()
                result["near_pairs"] = report.figures["near"]["pairs"]
            page, result["save_s"] = timed(lambda: report.save(Path(folder) / "report"))
            result["page_mb"] = page.stat().st_size / 1e6
    print(json.dumps(result, indent=2))


def peak() -> float:
    """Return the largest resident memory of this process so far, in GiB; mapped files count as they are read."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
