"""Time and memory of an audit on generated pairs, and of a plan from margins alone.

    python benchmarks/audit.py --pairs 1000000 --output benchmarks/results/audit.json
    python benchmarks/audit.py --plan-pairs 10000000

Texts are words drawn from a vocabulary of 20,000 by Zipf's law: prompts of 10 to 69 words, answers of 50 to 259, about
2.6 kB a pair; one pair in a hundred repeats the one before with a word added. Another process generates them, so that
only the stages are in the peak of memory. Every stage is printed as it ends, and all of them as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from mixdpo import AuditSettings, audit, load_pairs, make_plan
from mixdpo.common.files import write_json

PART = 20_000
WORDS = 20_000
FINE = 1 << 20
"""Steps of the distribution of words."""

T = TypeVar("T")


def write_pairs(path: Path, pairs: int, seed: int = 0) -> None:
    """Write generated pairs as parquet, a part at a time."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = pa.array("".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(WORDS))
    weights = 1 / np.arange(2, WORDS + 2)
    rank = np.searchsorted(np.cumsum(weights / weights.sum()), (np.arange(FINE) + 0.5) / FINE).clip(max=WORDS - 1)

    def texts(lengths: np.ndarray) -> list[str]:
        words = vocabulary.take(pa.array(rank[rng.integers(0, FINE, lengths.sum(), dtype=np.int32)]))
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pc.binary_join(pa.ListArray.from_arrays(ends, words), " ").to_pylist()

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


def write_margins(path: Path, pairs: int, seed: int = 0) -> None:
    """Write ids and normal margins as the Arrow file of a data set."""
    ids = pl.int_range(pairs, eager=True).cast(pl.String).str.zfill(20)
    margins = np.random.default_rng(seed).normal(size=pairs)
    table = pa.table({"pair_id": ids.to_arrow().cast(pa.string()), "margin/rating": margins})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=PART)


def elsewhere(write: Callable[..., None], *arguments: Any) -> None:
    """Run a function in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=write, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the data could not be generated")


class Stages:
    """Seconds of each stage, and the peak of memory at its end; printed as they come."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, float]] = {}

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of `work`, timed."""
        start = time.perf_counter()
        result = work()
        # The largest resident memory so far, in GiB; mapped files count as far as they are read.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.records[name] = {"seconds": round(time.perf_counter() - start, 2), "peak_gib": round(peak, 2)}
        print(f"{name}: {self.records[name]['seconds']:.1f} s, peak {peak:.2f} GiB", flush=True)
        return result


def measure_plan(folder: Path, pairs: int) -> dict[str, Any]:
    """Make, save and load a plan of this many pairs."""
    stages, path = Stages(), folder / "plan.parquet"
    elsewhere(write_margins, folder / "margins.arrow", pairs)
    margins = stages.run("open", lambda: Dataset.from_file(str(folder / "margins.arrow")))
    plan = stages.run("make_plan", lambda: make_plan(margins))
    stages.run("save", lambda: plan.save(path))
    stages.run("load", lambda: type(plan).load(path))
    return {"pairs": pairs, "stages": stages.records}


def measure_audit(folder: Path, pairs: int, near: bool) -> dict[str, Any]:
    """Load and audit this many pairs, without near-duplicates and (`near`) with them."""
    stages, path = Stages(), folder / "pairs.parquet"
    elsewhere(write_pairs, path, pairs)
    data = stages.run("load", lambda: load_pairs(str(path)))
    size = sum(file.stat().st_size for file in folder.rglob("pairs-*.arrow"))
    report = stages.run("statistics", lambda: audit(data, settings=AuditSettings(near_duplicates=False)))
    if near:
        report = stages.run("with_near_duplicates", lambda: audit(data))
        found = report.figures["near"]["pairs"]
        print(f"{found:,} near-duplicate pairs", flush=True)
    page = stages.run("save", lambda: report.save(folder / "report"))
    return {
        "pairs": pairs,
        "text_gb": round(size / 1e9, 2),
        "near_pairs": report.figures["near"] and report.figures["near"]["pairs"],
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "stages": stages.records,
    }


def main() -> None:
    """Measure and print; `--skip-near` and a smaller `--pairs` make it short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--plan-pairs", type=int, default=0, help="time a plan from this many margins instead")
    parser.add_argument("--skip-near", action="store_true", help="leave near-duplicates out")
    parser.add_argument("--output", type=Path, help="also write the JSON object here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXDPO_CACHE"] = folder
        if arguments.plan_pairs:
            result = measure_plan(Path(folder), arguments.plan_pairs)
        else:
            result = measure_audit(Path(folder), arguments.pairs, not arguments.skip_near)
    result["machine"] = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, polars {pl.__version__}"
    print(json.dumps(result, indent=2))
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
