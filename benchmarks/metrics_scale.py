"""Time and memory of the metrics that need no model, on generated pairs.

    python benchmarks/metrics_scale.py --pairs 1000000

The pairs are those of benchmarks/audit.py: about 2.6 kB of text each. Writes results/metrics-scale.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from arms import RESULTS, conditions
from audit import Stages, elsewhere, write_pairs

from mixdpo import load_pairs, score
from mixdpo.common.files import write_json

METRICS = ("rating", "length_gap", "combine")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    pairs = parser.parse_args().pairs
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIXDPO_CACHE"] = folder
        path = Path(folder) / "pairs.parquet"
        elsewhere(write_pairs, path, pairs)
        data = stages.run("load", partial(load_pairs, str(path)))
        size = sum(file.stat().st_size for file in Path(folder).rglob("pairs-*.arrow"))
        for name in METRICS:
            data = stages.run(name, partial(score, data, name))
        stages.run("write", partial(data.to_parquet, str(Path(folder) / "scored.parquet")))
    record = {**conditions(), "pairs": pairs, "text_gb": round(size / 1e9, 2), "stages": stages.records}
    write_json(RESULTS / "metrics-scale.json", record)


if __name__ == "__main__":
    main()
